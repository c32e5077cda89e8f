"""Runs of a worker that end: when no job is ripe, when no job is left, or after a number of jobs."""

from __future__ import annotations

import threading
import time

import pytest
from support.database import jobs
from support.threads import Thread, eventually

from pgq import Drain, Handlers, Job, Queue, Worker, WorkerQueue
from pgq.worker.settings import Timing


def test_a_draining_worker_ends_when_no_job_is_ripe(queue: Queue, dsn: str, handlers: Handlers) -> None:
    """A job for later stays; jobs that its handlers enqueue are done."""
    done: list[int] = []

    @handlers.handler("k")
    def work(job: Job) -> None:
        done.append(job.args)
        if job.args:
            queue.enqueue("k", job.args - 1)

    later = queue.enqueue("k", 7, delay="1 hour")
    queue.enqueue("k", 2)
    worker = Worker(dsn, handlers, drain=Drain(until_empty=False), concurrency=2)
    Thread(worker.run).result(30)
    assert sorted(done) == [0, 1, 2]
    assert jobs(queue.conn) == [(later.id, "waiting", 0)]
    assert worker.drained


def test_until_empty_waits_for_later_jobs_and_jobs_of_other_workers(
    queue: WorkerQueue, dsn: str, handlers: Handlers
) -> None:
    """It starts a later job when it is ripe, however long the poll interval is."""
    done: list[str] = []
    handlers.handler("k")(lambda job: done.append(job.args))
    queue.enqueue("k", "elsewhere")
    (elsewhere,) = queue.claim()
    queue.enqueue("k", "later", delay="300 milliseconds")
    worker = Worker(dsn, handlers, drain=Drain(until_empty=True), poll=0.2)
    thread = Thread(worker.run)
    eventually(lambda: jobs(queue.conn) == [(elsewhere.id, "running", 1)])
    # Several polls.
    end = time.monotonic() + 0.7
    eventually(lambda: time.monotonic() > end or not thread.is_alive())
    assert thread.is_alive()
    assert done == ["later"]
    queue.complete(elsewhere)
    thread.result(30)
    assert jobs(queue.conn) == []


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_worker_ends_after_max_jobs(queue: Queue, dsn: str, handlers: Handlers, concurrency: int) -> None:
    """It runs exactly that many, and releases what it has claimed beyond."""
    done: list[int] = []
    lock = threading.Lock()

    @handlers.handler("k")
    def work(job: Job) -> None:
        with lock:
            done.append(job.args)

    handlers.handler("list", batch=4)(lambda jobs: done.extend(job.args for job in jobs))
    queue.enqueue_many({"kind": kind, "args": n} for n in range(20) for kind in ("k", "list"))
    Thread(Worker(dsn, handlers, max_jobs=7, concurrency=concurrency).run).result(30)
    assert len(done) == 7
    assert [(state, attempt) for _, state, attempt in jobs(queue.conn)] == [("waiting", 0)] * 33


def test_a_released_job_does_not_count_against_max_jobs(queue: Queue, dsn: str, handlers: Handlers) -> None:
    """The worker releases jobs behind a slow one, and claims as many again."""
    done: list[int] = []

    @handlers.handler("k")
    def work(job: Job) -> None:
        if job.args == 0:
            eventually(lambda: [state for _, state, _ in jobs(queue.conn)] == ["running", *["waiting"] * 5])
        done.append(job.args)

    queue.enqueue_many({"kind": "k", "args": n} for n in range(6))
    Thread(Worker(dsn, handlers, max_jobs=4, timing=Timing(keep_unstarted=0.01)).run).result(30)
    assert done == [0, 1, 2, 3]
