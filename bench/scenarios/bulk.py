"""Enqueue a thousand jobs per call; each call is one commit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from contender import Contender, Producer
from contenders import by_name, floor, pgmq, pgq
from databases import connect, fresh, value
from harness import BenchError, Harness, Sample
from job import KIND, array
from usage import usage

NAME = "bulk"
WHAT = "1,000 jobs a call"
STATEMENT = "1,000 jobs a call, the statement alone"
WHAT_PEERS = "1,000 jobs a call, other queues for Python"
NO_DEDUP = "pgq, no dedup"
CHUNK = 1000
PEER_ROUNDS = 1


@dataclass(frozen=True)
class Client:
    """A library that enqueues into a table."""

    contender: str
    table: str
    producer: Callable[[str], Producer] | None = None

    def connect(self, contender: Contender, database: str) -> Producer:
        return (self.producer or contender.producer)(database)


CLIENTS = {
    "pgq": Client("pgq", "pgq_waiting"),
    NO_DEDUP: Client("pgq", "pgq_waiting", lambda database: pgq.Producer(database, {"kind": KIND, "dedup": False})),
    "pgmq": Client("pgmq", f"pgmq.q_{pgmq.QUEUE}"),
    "floor": Client("floor", "floor"),
}
PEERS = {
    "pgq": CLIENTS["pgq"],
    "graphile": Client("graphile", "graphile_worker._private_jobs"),
    "pgqueuer": Client("pgqueuer", "pgqueuer"),
    "procrastinate": Client("procrastinate", "procrastinate_jobs"),
}
STATEMENTS = {"pgq": pgq.ENQUEUE_MANY, "floor": floor.ENQUEUE_MANY}


def run(harness: Harness) -> None:
    jobs = harness.pick(100_000, 10_000)
    harness.compare(NAME, WHAT, "jobs/s", {name: partial(by_library, jobs, client) for name, client in CLIENTS.items()})
    peers = {name: partial(by_library, jobs // 2, client) for name, client in PEERS.items()}
    harness.compare(NAME, WHAT_PEERS, "jobs/s", peers, PEER_ROUNDS)
    texts = [array(first, CHUNK) for first in range(0, jobs, CHUNK)]
    harness.compare(NAME, STATEMENT, "jobs/s", {name: partial(by_statement, texts, name) for name in STATEMENTS})


def by_library(jobs: int, client: Client) -> Sample:
    """Return jobs per second as a program sees them, encoding of the arguments included."""
    contender = by_name(client.contender)
    with (
        fresh(contender) as database,
        contextlib.closing(client.connect(contender, database)) as producer,
        connect(database) as conn,
    ):
        conn.execute("CHECKPOINT")
        before, started = usage(conn, []), time.perf_counter()
        cpu = time.process_time()
        for first in range(0, jobs, CHUNK):
            producer.many(first, CHUNK)
        seconds = time.perf_counter() - started
        costs = usage(conn, []).since(before, jobs)
        costs["client CPU"] = 1e6 * (time.process_time() - cpu) / jobs
        check(client.table, database, jobs)
    return Sample(jobs / seconds, costs)


def by_statement(texts: list[str], name: str) -> float:
    """Return jobs per second of the statements and commits alone: the JSON text is made before the clock starts."""
    query = STATEMENTS[name]
    with fresh(by_name(name)) as database, connect(database) as conn:
        conn.execute("CHECKPOINT")
        started = time.perf_counter()
        for text in texts:
            conn.execute(query, [text], prepare=True)
        seconds = time.perf_counter() - started
        check(CLIENTS[name].table, database, len(texts) * CHUNK)
    return len(texts) * CHUNK / seconds


def check(table: str, database: str, jobs: int) -> None:
    """Raise BenchError unless the table holds all jobs."""
    with connect(database) as conn:
        found = value(conn, f"SELECT count(*) FROM {table}")
    if found != jobs:
        raise BenchError(f"{table}: {found} jobs, not {jobs}")
