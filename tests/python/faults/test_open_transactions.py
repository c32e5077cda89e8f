"""Handlers that lock a packed batch by SQL, in a transaction of their own that stays open."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from support.database import Connection
from support.threads import Thread, eventually
from support.workers import MakeWorker, start

from pgq import Handlers, Job, Queue, Worker
from pgq.worker.abort import release_all
from pgq.worker.settings import Timing

# As many as a first claim takes.
JOBS = 10
SHORT = Timing(look=60, keep_unstarted=60, settle_after=60, lock_timeout="50ms")


@pytest.mark.happens("it is told to stop twice")
def test_an_abort_releases_the_jobs_of_other_claims(
    queue: Queue,
    conn: Connection,
    handlers: Handlers,
    make_worker: MakeWorker,
    running: list[Worker],
    dsn: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A handler has locked the jobs of its own claim; those of another loop go back all the same."""
    worker = make_worker(concurrency=2, timing=SHORT)
    locked, end = threading.Event(), threading.Event()

    @handlers.handler("locks")
    def locks(job: Job) -> None:
        if job.args == 1:
            with psycopg.connect(dsn) as own:
                own.execute("SELECT pgq_hold(%s, %s)", [job.id, job.token])
                locked.set()
                assert end.wait(60)

    @handlers.handler("waits")
    def waits(job: Job) -> None:
        if job.args == 1:
            assert end.wait(60)

    def found(kind: str) -> list[tuple[Any, ...]]:
        return conn.execute("SELECT state, attempt FROM pgq_jobs WHERE kind = %s ORDER BY id", [kind]).fetchall()

    start(worker, running)
    try:
        queue.enqueue_many({"kind": "locks", "args": n} for n in range(JOBS))
        assert locked.wait(60)
        queue.enqueue_many({"kind": "waits", "args": n} for n in range(JOBS))
        eventually(lambda: len(worker._executions()) == 2)
        assert found("waits") == [("running", 1)] * JOBS
        abort = Thread(release_all, worker.loops, worker.settings, worker.state.done)
        eventually(lambda: not abort.is_alive(), "it gives up")
        abort.result()
        # One of them is done.
        assert found("waits") == [("waiting", 0)] * (JOBS - 1)
        assert found("locks") == [("running", 1)] * JOBS
        assert "10 jobs are left to their leases: a transaction of a handler has locked them" in caplog.text
    finally:
        worker.state.stopping = True
        end.set()
