"""Merging beside other sessions: a job that goes back to waiting, its twin, and producers and claims that use it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.database import Connect, Connection, jobs, waits_for_lock
from support.threads import eventually

from pgq import Job, Queue, WorkerQueue

Back = Callable[[WorkerQueue, Job], str]


def fail(queue: WorkerQueue, job: Job) -> str:
    """Fail the job, ripe again at once."""
    return queue.fail(job, "again", retry_in="0").outcome


def retry(queue: WorkerQueue, job: Job) -> str:
    """Retry the dead job by hand."""
    return queue.retry(job.id)


BACK = pytest.mark.parametrize("back", [fail, retry])


def lost(queue: WorkerQueue, back: Back) -> Job:
    """Return a job that runs, or is dead if it is to be retried by hand."""
    queue.enqueue("k", max_retries=0 if back is retry else 9)
    (job,) = queue.claim()
    if back is retry:
        assert queue.fail(job, "first").outcome == "dead"
    return job


@BACK
def test_a_job_whose_twin_is_claimed_meanwhile_waits_itself(
    conn: Connection, connect: Connect, queue: WorkerQueue, pool: ThreadPoolExecutor, back: Back
) -> None:
    """Its insert has met the twin, but a worker claims the twin before the job has merged into it."""
    job = lost(queue, back)
    twin = queue.enqueue("k")
    a, b = connect(), connect()
    with a.transaction():
        # A row lock lets the insert pass and stops the update.
        a.execute("SELECT FROM pgq_waiting FOR UPDATE")
        future = pool.submit(back, WorkerQueue(b), job)
        eventually(lambda: waits_for_lock(conn, b))
        assert [claimed.id for claimed in WorkerQueue(a).claim()] == [twin.id]
    assert future.result(30) == "retry"
    assert jobs(conn) == [(job.id, "waiting", 0 if back is retry else 1), (twin.id, "running", 1)]


@BACK
def test_a_merge_does_not_wait_for_a_duplicate_that_is_not_committed(
    conn: Connection, connect: Connect, queue: WorkerQueue, back: Back
) -> None:
    """The duplicate's lock outlives the merge: no claim takes the twin before its transaction ends."""
    job = lost(queue, back)
    twin = queue.enqueue("k")
    producer = connect()
    conn.execute("SET lock_timeout = '2s'")
    with producer.transaction():
        assert not Queue(producer).enqueue("k").created
        assert back(queue, job) == "merged"
        assert queue.claim() == []
    assert [(claimed.id, claimed.attempt) for claimed in queue.claim()] == [(twin.id, 1 if back is retry else 2)]


@BACK
@pytest.mark.parametrize("commits", [True, False])
def test_a_merge_waits_for_a_replace_that_is_not_committed(
    conn: Connection, connect: Connect, queue: WorkerQueue, pool: ThreadPoolExecutor, back: Back, commits: bool
) -> None:
    """Neither change of the twin is lost."""
    job = lost(queue, back)
    twin = queue.enqueue("k", priority=5)
    producer, other = connect(), connect()
    with producer.transaction(force_rollback=not commits):
        Queue(producer).enqueue("k", priority=1, on_duplicate="replace")
        future = pool.submit(back, WorkerQueue(other), job)
        eventually(lambda: waits_for_lock(conn, other))
    assert future.result(30) == "merged"
    ((job_id, priority, errors),) = conn.execute("SELECT id, priority, jsonb_array_length(errors) FROM pgq_waiting")
    assert (job_id, priority, errors) == (twin.id, 1 if commits else 5, 1)


def test_a_job_with_nothing_to_tell_does_not_lock_its_twin(connect: Connect, queue: WorkerQueue) -> None:
    """A job that is released in its first attempt merges, and the twin can be claimed and changed at once."""
    job = lost(queue, fail)
    twin = queue.enqueue("k")
    other = connect()
    with queue.conn.transaction():
        assert queue.release(job) == "merged"
        assert [claimed.id for claimed in WorkerQueue(other).claim()] == [twin.id]
