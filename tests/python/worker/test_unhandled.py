"""Jobs for which a worker has no handler: they wait for a worker that has one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support.database import Connection, jobs, one
from support.threads import Thread
from support.workers import MakeWorker, drain

from pgq import Drain, Handlers, Queue, Worker, WorkerQueue
from pgq.process.logs import TEXT, TextFormatter
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing

OPTIONS = {
    "plain": {},
    "transactional": {"transaction": True},
    "batch": {"batch": 5},
    "transactional batch": {"batch": 5, "transaction": True},
}


def delays(conn: Connection) -> list[timedelta]:
    """Return how long the waiting jobs wait, from now on."""
    rows = conn.execute("SELECT ripe_at - now() FROM pgq_waiting ORDER BY id").fetchall()
    return [row[0] for row in rows]


def hurry(conn: Connection) -> None:
    """Let all waiting jobs be ripe."""
    conn.execute("UPDATE pgq_waiting SET ripe_at = now()")


@pytest.mark.happens("is not there")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_a_job_without_a_handler_waits_and_the_others_of_its_batch_run(
    queue: Queue, loop: Loop, handlers: Handlers, options: dict[str, Any]
) -> None:
    """It waits for half a minute, and no attempt counts, also when it has only one."""
    done: list[int] = []
    handlers.handler("k", **options)(
        lambda given, *_: done.extend(job.args for job in (given if isinstance(given, list) else [given]))
    )
    queue.enqueue_many({"kind": "k" if n % 2 else "other", "args": n, "max_retries": 0} for n in range(10))
    drain(loop)
    assert done == [1, 3, 5, 7, 9]
    assert [(state, attempt) for _, state, attempt in jobs(queue.conn)] == [("waiting", 0)] * 5
    assert all(timedelta(seconds=20) < delay < timedelta(seconds=34) for delay in delays(queue.conn))
    error = one(queue.conn, "SELECT errors -> 0 ->> 'error' FROM pgq_jobs LIMIT 1")
    assert error == 'the worker has no handler for kind "other"'


@pytest.mark.happens("is not there")
@pytest.mark.parametrize("first", [["a"], ["c"]], ids=["rolling deployment", "two services"])
def test_jobs_of_two_workers_with_different_kinds_are_all_done(queue: Queue, dsn: str, first: list[str]) -> None:
    """Either an old worker lacks a kind of the new one, or two services share a queue; none of the jobs dies."""
    done: list[tuple[str, int]] = []
    workers = []
    for kinds in (first, ["a", "b"]):
        handlers = Handlers()
        for kind in kinds:
            handlers.handler(kind)(lambda job: done.append((job.kind, job.args)))
        workers.append(Worker(dsn, handlers, poll=60))
    meant = [(kind, n) for n in range(30) for kind in [*first, "b"]]
    queue.enqueue_many({"kind": kind, "args": n, "max_retries": 0} for kind, n in meant)
    try:
        for _ in range(20):
            for worker in workers:
                drain(worker.loops[0])
            # The other one comes first the next time.
            workers.reverse()
            hurry(queue.conn)
    finally:
        for worker in workers:
            worker.close()
    assert sorted(done) == sorted(meant)
    assert jobs(queue.conn) == []


def test_a_job_waits_longer_each_time_whichever_worker_meets_it(queue: Queue, make_worker: MakeWorker) -> None:
    """The delay doubles up to ten minutes; the database keeps how often."""
    queue.enqueue("k", max_retries=0)
    for seconds in (30, 60, 120, 240, 480, 600, 600):
        hurry(queue.conn)
        drain(make_worker().loops[0])
        (delay,) = delays(queue.conn)
        assert 0.85 * seconds < delay.total_seconds() < 1.11 * seconds


@pytest.mark.parametrize("until_empty", [False, True])
def test_a_worker_that_drains_does_not_wait_for_jobs_without_a_handler(
    queue: Queue, dsn: str, handlers: Handlers, until_empty: bool
) -> None:
    """It declines the one that is ripe, and waits neither for that nor for a later one."""
    done: list[int] = []
    handlers.handler("k")(lambda job: done.append(job.args))
    queue.enqueue("other")
    queue.enqueue("other", 1, delay="1 hour")
    queue.enqueue("k", 2)
    worker = Worker(dsn, handlers, drain=Drain(until_empty=until_empty))
    Thread(worker.run).result(30)
    assert (done, worker.drained) == ([2], True)
    assert [state for _, state, _ in jobs(queue.conn)] == ["waiting", "waiting"]


def test_jobs_without_a_handler_are_not_among_max_jobs(queue: Queue, dsn: str, handlers: Handlers) -> None:
    """The worker ends after so many handlers, although it declines more jobs than that before."""
    done: list[int] = []
    handlers.handler("k")(lambda job: done.append(job.args))
    queue.enqueue_many({"kind": "other", "args": n, "priority": 0} for n in range(7))
    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    worker = Worker(dsn, handlers, max_jobs=2, poll=0.1)
    Thread(worker.run).result(30)
    assert done == [0, 1]


def test_the_log_warns_once_for_each_kind_and_minute(
    queue: Queue, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """However many jobs and loops there are."""
    now = [1000.0]
    worker = make_worker(timing=Timing(clock=lambda: now[0]), concurrency=2)

    def warned() -> list[str]:
        said = [r.__dict__["kind"] for r in caplog.records if r.__dict__.get("action") == "unhandled"]
        caplog.clear()
        return sorted(said)

    def meet(*kinds: str) -> None:
        queue.enqueue_many({"kind": kind, "dedup": False} for kind in kinds)
        hurry(queue.conn)
        for loop in worker.loops:
            drain(loop)

    meet("a", "a", "b")
    assert warned() == ["a", "b"]
    now[0] += 59
    meet("a", "c")
    assert warned() == ["c"]
    now[0] += 2
    meet("a")
    assert warned() == ["a", "b"]


def test_no_kind_begins_a_line_of_the_log(
    queue: Queue, make_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does it reach a terminal as anything but text."""
    (loop,) = make_worker().loops
    queue.enqueue("a\n2030-01-01 12:00:00 ERROR forged\x1b[31m")
    drain(loop)
    (record,) = (one for one in caplog.records if one.__dict__.get("action") == "unhandled")
    line = TextFormatter(TEXT).format(record)
    assert 'kind "a 2030-01-01 12:00:00 ERROR forged [31m"' in line
    assert line.isprintable()


def test_a_worker_tells_its_kinds(queue: Queue, dsn: str, handlers: Handlers) -> None:
    """Operators see which kinds have no worker."""
    handlers.handler("known")(lambda job: None)
    queue.enqueue("known", delay="1 hour")
    queue.enqueue("other", delay="1 hour")
    worker = Worker(dsn, handlers, poll=60)
    worker.presence.start()
    try:
        assert one(queue.conn, "SELECT handles FROM pgq_workers") == ["known"]
        handled = queue.conn.execute("SELECT kind, handled FROM pgq_stats ORDER BY kind").fetchall()
        assert handled == [("known", True), ("other", False)]
    finally:
        worker.presence.unregister()
        worker.close()


def test_declining_leaves_a_job_to_its_lease_while_a_producer_holds_its_twin(
    queue: WorkerQueue, loop: Loop, connect: Any
) -> None:
    """As after a snooze; the other jobs of the batch are settled."""
    queue.enqueue("other")
    (job,) = queue.claim()
    queue.release(job)
    producer: psycopg.Connection[Any] = connect(autocommit=False)
    loop.turn()
    Queue(producer).enqueue("other")
    drain(loop)
    assert jobs(queue.conn) == [(job.id, "running", 1)]
    producer.rollback()
