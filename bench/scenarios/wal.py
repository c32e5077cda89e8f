"""The WAL of a job's life in batches: enqueued by the thousand, claimed and completed by ``pgq worker``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from child import Task
from contenders import by_name
from databases import connect, fresh, value
from harness import Harness
from processes import Processes
from usage import WAL

from scenarios.drain import fill

NAME = "wal"
WHAT = "enqueue, claim and completion of a job"
CONTENDERS = ("pgq", "release", "graphile")
CHUNK = 1_000
# What neither depends on the job nor is the same in each run.
LEFT_OUT = ("full_page_writes", "autovacuum")


def run(harness: Harness) -> None:
    jobs = harness.pick(50_000, 10_000)
    with without(LEFT_OUT):
        harness.compare(NAME, WHAT, "B", {name: partial(of_a_job, name, jobs) for name in CONTENDERS}, 1)


def of_a_job(name: str, jobs: int) -> float:
    """Return the bytes of WAL for each job, from its enqueue until it is completed and gone."""
    contender = by_name(name)
    with (
        fresh(contender) as database,
        Processes(contender, Task(database)) as children,
        connect(database) as conn,
    ):
        children.wait_ready()
        before = value(conn, WAL)
        fill(contender, database, jobs, CHUNK)
        children.drain(jobs)
        return float(value(conn, WAL) - before) / jobs


@contextmanager
def without(settings: tuple[str, ...]) -> Iterator[None]:
    """Switch settings of the server off."""
    with connect() as conn, contextlib.ExitStack() as stack:
        for setting in settings:
            conn.execute(f"ALTER SYSTEM SET {setting} = off")
            stack.callback(conn.execute, f"ALTER SYSTEM RESET {setting}")
        conn.execute("SELECT pg_reload_conf()")
        yield
        stack.close()
        conn.execute("SELECT pg_reload_conf()")
