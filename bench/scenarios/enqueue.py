"""Enqueue jobs one by one, each in a transaction: beside a bare INSERT of the same row, pgmq, and a NOTIFY in each."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import rows
from clients import enqueue_in_processes
from contenders import by_name
from contenders.pgmq import QUEUE
from databases import connect, fresh, value
from harness import BenchError, Harness, Sample
from usage import usage

NAME = "enqueue"
UNIT = "jobs/s"
BARE = "bare insert"
PGMQ = "pgmq.send"
NOTIFY = "pgq + notify"
# Clients, and seconds of a full run: each session compiles the functions on its first call.
CLIENTS = {1: 3, 16: 3, 64: 5}
NOTIFY_CLIENTS = 16
# Far enough apart to keep the arguments of all clients distinct.
DISTINCT = "\\set i :i + 1\n\\set n :client_id * 1000000000000 + :i\n"


@dataclass(frozen=True)
class Statement:
    """What a client sends; ``:n`` is the number of a job. ``make`` returns it after preparing a database."""

    contender: str
    table: str
    make: Callable[[str], str]


ENQUEUE = "SELECT id, created FROM pgq_enqueue('job', to_jsonb(:n::bigint))"
SEND = f"SELECT * FROM pgmq.send('{QUEUE}', to_jsonb(:n::bigint))"
STATEMENTS = {
    "pgq": Statement("pgq", "pgq_waiting", lambda _: ENQUEUE),
    BARE: Statement("pgq", rows.BARE, rows.create_bare),
    PGMQ: Statement("pgmq", f"pgmq.q_{QUEUE}", lambda _: SEND),
    NOTIFY: Statement("pgq", "pgq_waiting", lambda _: ENQUEUE.replace(" FROM", ", pg_notify('bench', '') FROM")),
}


def run(harness: Harness) -> None:
    for clients, seconds in CLIENTS.items():
        names = [name for name in STATEMENTS if name != NOTIFY or clients == NOTIFY_CLIENTS]
        rates = {name: partial(rate, harness.pick(seconds, 1), clients, name) for name in names}
        harness.compare(NAME, what(clients), UNIT, rates)


def what(clients: int) -> str:
    return f"{clients} client{'s' if clients > 1 else ''}"


def rate(seconds: int, clients: int, name: str) -> Sample:
    """Return jobs per second, and what a job has cost; check the number of jobs in the table."""
    statement = STATEMENTS[name]
    send = pgbench if shutil.which("pgbench") else enqueue_in_processes
    with fresh(by_name(statement.contender)) as database:
        query = statement.make(database)
        with connect(database) as conn:
            conn.execute("CHECKPOINT")
            before = usage(conn, [])
            jobs, took = send(database, query, clients, seconds)
            costs = usage(conn, []).since(before, max(jobs, 1))
            found = value(conn, f"SELECT count(*) FROM {statement.table}")
        if found != jobs:
            raise BenchError(f"{name}: {found} jobs in the table, not {jobs}")
        # The clients are pgbench's.
        del costs["client CPU"]
        return Sample(jobs / took, costs)


def pgbench(database: str, query: str, clients: int, seconds: int) -> tuple[int, float]:
    """Run a statement with pgbench; return the number of calls and the seconds they took."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "enqueue.sql")
        script.write_text(f"{DISTINCT}{query};\n", encoding="utf-8")
        options = ["-n", "-M", "prepared", "-D", "i=0", "-c", str(clients), "-j", str(min(clients, 2))]
        command = ["pgbench", *options, "-T", str(seconds), "-f", str(script), database]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    jobs = re.search(r"actually processed: (\d+)", done.stdout)
    tps = re.search(r"tps = ([\d.]+)", done.stdout)
    if done.returncode or not jobs or not tps:
        raise BenchError(f"pgbench: {done.stderr.strip()}")
    return int(jobs[1]), int(jobs[1]) / float(tps[1])
