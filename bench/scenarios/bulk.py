"""Enqueue a thousand jobs per call; each call is one commit."""

from __future__ import annotations

import contextlib
import time
from functools import partial

from contenders import by_name, floor, pgq
from databases import connect, fresh, value
from harness import BenchError, Harness
from job import array

NAME = "bulk"
WHAT = "1,000 jobs a call"
WHAT_PEERS = "1,000 jobs a call, through the client library"
CHUNK = 1000
STATEMENTS = {"pgq": pgq.ENQUEUE_MANY, "floor": floor.ENQUEUE_MANY}
TABLES = {"pgq": "pgq_waiting", "floor": "floor", "pgqueuer": "pgqueuer", "procrastinate": "procrastinate_jobs"}


def run(harness: Harness) -> None:
    jobs = harness.pick(100_000, 10_000)
    texts = [array(first, CHUNK) for first in range(0, jobs, CHUNK)]
    harness.compare(NAME, WHAT, "jobs/s", {name: partial(by_statement, texts, name) for name in STATEMENTS})
    harness.compare(NAME, WHAT_PEERS, "jobs/s", {name: partial(by_library, jobs, name) for name in TABLES})


def by_statement(texts: list[str], name: str) -> float:
    """Return jobs per second of the statements and commits alone: the JSON text is made before the clock starts."""
    query = STATEMENTS[name]
    with fresh(by_name(name)) as database, connect(database) as conn:
        started = time.perf_counter()
        for text in texts:
            conn.execute(query, [text], prepare=True)
        seconds = time.perf_counter() - started
        check(database, name, len(texts) * CHUNK)
    return len(texts) * CHUNK / seconds


def by_library(jobs: int, name: str) -> float:
    """Return jobs per second as a Python program sees them, encoding of the arguments included."""
    contender = by_name(name)
    with fresh(contender) as database, contextlib.closing(contender.producer(database)) as producer:
        started = time.perf_counter()
        for first in range(0, jobs, CHUNK):
            producer.many(first, CHUNK)
        seconds = time.perf_counter() - started
        check(database, name, jobs)
    return jobs / seconds


def check(database: str, name: str, jobs: int) -> None:
    """Raise BenchError unless the table holds all jobs."""
    with connect(database) as conn:
        found = value(conn, f"SELECT count(*) FROM {TABLES[name]}")
    if found != jobs:
        raise BenchError(f"{name}: {found} jobs in the table, not {jobs}")
