"""Handlers that end their process while it holds a batch: only their own jobs are dead."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.database import Connection, expire, one
from support.processes import Start
from support.threads import eventually

from pgq import Queue, WorkerQueue

JOBS = 1000
TASKS = """
import os, signal
import pgq


@pgq.handler("plain")
def plain(job):
    pass


@pgq.handler("effect", transaction=True)
def effect(job, conn):
    conn.execute("INSERT INTO effect VALUES (%s)", [job.args])


@pgq.handler("list", batch=20)
def list_(jobs):
    pass


@pgq.handler("effects", batch=20, transaction=True)
def effects(job, conn):
    conn.execute("INSERT INTO effect VALUES (%s)", [job.args])


@pgq.handler("exit")
def exit_(job):
    os._exit(7)


@pgq.handler("kill", transaction=True)
def kill(job, conn):
    conn.execute("INSERT INTO effect VALUES (%s)", [job.args])
    os.kill(os.getpid(), signal.SIGKILL)
"""
INNOCENT = ("plain", "effect", "list", "effects")


def enqueue(queue: Queue, crashers: dict[int, str]) -> None:
    """Enqueue a thousand jobs without retries, those of ``crashers`` at these places."""
    queue.enqueue_many(
        {"kind": crashers.get(n, INNOCENT[n % len(INNOCENT)]), "args": n, "max_retries": 0} for n in range(JOBS)
    )


def left(conn: Connection) -> list[tuple[str, str, int]]:
    """Return kind, state and attempt of the jobs that are not done."""
    return conn.execute("SELECT kind, state, attempt FROM pgq_jobs ORDER BY id").fetchall()


@pytest.mark.happens("ends its process")
@pytest.mark.parametrize(
    "options",
    [("--processes", "4"), ("--processes", "2", "--concurrency", "4")],
    ids=["processes", "threads"],
)
def test_only_the_jobs_that_end_their_process_are_dead(
    conn: Connection, queue: Queue, start: Start, tmp_path: Path, grown_up: None, options: tuple[str, ...]
) -> None:
    """A thousand jobs without retries, three of which end their process: 997 are done, their effects once."""
    (tmp_path / "tasks.py").write_text(TASKS)
    conn.execute("CREATE TABLE effect (n integer)")
    crashers = {0: "kill", 501: "exit", 998: "kill"}
    enqueue(queue, crashers)
    # The log goes to a pipe that is read at the end.
    process = start(*options, "--log-level", "warning")
    eventually(lambda: len(left(conn)) == len(crashers), "all others are done", seconds=100)
    dead = [(kind, "dead", 1) for kind in crashers.values()]
    eventually(lambda: left(conn) == dead, "those that end their process are dead", seconds=30)
    innocent = [n for n in range(JOBS) if n not in crashers and n % len(INNOCENT) in {1, 3}]
    assert [row[0] for row in conn.execute("SELECT n FROM effect ORDER BY n").fetchall()] == innocent
    process.terminate()
    assert process.wait(30) == 0


@pytest.mark.parametrize("worker", [None, "client"], ids=["nameless", "named"])
def test_only_the_job_that_ends_its_client_is_dead(conn: Connection, queue: WorkerQueue, worker: str | None) -> None:
    """Clients in plain SQL that claim a hundred jobs at a time, and whose leases run out."""
    crashers = {7: "exit", 8: "exit", 650: "exit"}
    enqueue(queue, crashers)
    crashes = 0
    while claimed := queue.claim(max_jobs=100, worker=worker):
        if any(job.kind == "exit" for job in claimed):
            crashes += 1
            expire(conn)
        else:
            queue.complete_many(claimed)
    assert left(conn) == [("exit", "dead", 1)] * 3
    assert one(conn, "SELECT array_agg(losses) FROM pgq_jobs") == [1, 1, 1]
    # Each batch with such a job, and each such job.
    assert crashes == 5
