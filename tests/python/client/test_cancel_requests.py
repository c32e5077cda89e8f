"""Cancels and other transactions: what the operator is told, and that no request is missed."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
import pytest
from support.database import Connect, Connection, expire, jobs, one

import pgq
from pgq import Job, Queue, WorkerQueue

# The longest that a cancel may take; less than half of it in fact.
LONGEST = 2.0


def requests(conn: Connection) -> int:
    """Return the number of requests that are left."""
    return int(one(conn, "SELECT count(*) FROM pgq_cancel_request"))


@pytest.mark.happens("is cancelled by an operator")
def test_a_cancel_of_a_held_job_waits_for_nothing(connect: Connect, queue: WorkerQueue) -> None:
    """It is requested at once. The handler's transaction completes the job, and the request lapses."""
    enqueued = queue.enqueue("job")
    (job,) = queue.claim()
    worker, operator = connect(autocommit=False), connect()
    WorkerQueue(worker).hold(job)
    operator.execute("SET statement_timeout = '2s'")
    assert Queue(operator).cancel(enqueued.id) == "requested"
    assert queue.cancel_requested([job]) == {job.id}
    WorkerQueue(worker).complete(job)
    worker.commit()
    assert jobs(queue.conn) == []
    with pytest.raises(pgq.JobNotFound):
        queue.cancel(enqueued.id)
    queue.claim()
    assert requests(queue.conn) == 0


def test_an_open_cancel_keeps_no_worker_waiting(connect: Connect, queue: WorkerQueue) -> None:
    """The worker completes the job while the operator's transaction is open."""
    queue.enqueue("job")
    (job,) = queue.claim()
    operator = connect(autocommit=False)
    assert Queue(operator).cancel(job.id) == "requested"
    queue.conn.execute("SET lock_timeout = '10ms'")
    assert queue.complete_many([job]) == {job.id}
    operator.commit()
    queue.claim()
    assert requests(queue.conn) == 0


def claim(conn: Connection) -> None:
    """Claim the job."""
    assert WorkerQueue(conn).claim()


def enqueue(conn: Connection) -> None:
    """Enqueue a duplicate of the job."""
    assert not Queue(conn).enqueue("job").created


@pytest.mark.parametrize("lock", [claim, enqueue])
def test_a_cancel_waits_shortly_for_the_transaction_that_has_locked_the_job(
    connect: Connect, queue: WorkerQueue, lock: Callable[[Connection], None]
) -> None:
    """Then it is refused with a hint, and the transaction of the operator goes on."""
    enqueued = queue.enqueue("job")
    other = connect(autocommit=False)
    lock(other)
    begun = time.monotonic()
    with (
        pytest.raises(psycopg.errors.LockNotAvailable, match="another transaction has locked job") as caught,
        queue.conn.transaction(),
    ):
        queue.cancel(enqueued.id)
    assert time.monotonic() - begun < LONGEST
    assert "Try again" in (caught.value.diag.message_hint or "")
    other.rollback()
    assert queue.cancel(enqueued.id) == "cancelled"


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_second_cancel_does_not_rely_on_one_that_may_roll_back(
    connect: Connect, queue: WorkerQueue, ending: str
) -> None:
    """It is refused while the first one is open."""
    queue.enqueue("job")
    (job,) = queue.claim()
    first = connect(autocommit=False)
    assert Queue(first).cancel(job.id) == "requested"
    begun = time.monotonic()
    with pytest.raises(psycopg.errors.LockNotAvailable, match="another transaction is cancelling job"):
        queue.cancel(job.id)
    assert time.monotonic() - begun < LONGEST
    getattr(first, ending)()
    assert queue.cancel(job.id) == "requested"
    assert requests(queue.conn) == 1


def fail(queue: WorkerQueue, job: Job) -> None:
    """Fail the job."""
    queue.fail(job, retry_in="0")


def snooze(queue: WorkerQueue, job: Job) -> None:
    """Put the job off."""
    queue.snooze(job, delay="0")


def release(queue: WorkerQueue, job: Job) -> None:
    """Give the job back."""
    queue.release(job)


def lose(queue: WorkerQueue, job: Job) -> None:
    """Lose the job."""
    expire(queue.conn, job.id)
    queue.claim(["elsewhere"])


@pytest.mark.parametrize("way", [fail, snooze, release, lose])
@pytest.mark.parametrize("then", ["waits", "is claimed"])
def test_a_way_back_before_the_commit_of_the_request_does_not_escape_it(
    connect: Connect, queue: WorkerQueue, way: Callable[[WorkerQueue, Job], None], then: str
) -> None:
    """The job waits again, or is claimed again: it is cancelled all the same."""
    queue.enqueue("job")
    (job,) = queue.claim()
    operator = connect(autocommit=False)
    assert Queue(operator).cancel(job.id) == "requested"
    way(queue, job)
    assert [row[1] for row in jobs(queue.conn)] == ["waiting"]
    if then == "is claimed":
        (again,) = queue.claim()
        assert queue.cancel_requested([again]) == set()
        operator.commit()
        assert queue.cancel_requested([job]) == set()
        assert queue.cancel_requested([again]) == {job.id}
        way(queue, again)
    else:
        operator.commit()
        assert queue.claim() == []
    assert [row[1] for row in jobs(queue.conn)] == ["cancelled"]
    assert requests(queue.conn) == 0


@pytest.mark.parametrize("way", [fail, snooze, release, lose])
def test_a_request_that_is_rolled_back_changes_nothing(
    connect: Connect, queue: WorkerQueue, way: Callable[[WorkerQueue, Job], None]
) -> None:
    """The job goes back to waiting."""
    queue.enqueue("job")
    (job,) = queue.claim()
    operator = connect(autocommit=False)
    assert Queue(operator).cancel(job.id) == "requested"
    operator.rollback()
    way(queue, job)
    assert [again.id for again in queue.claim()] == [job.id]


def test_a_request_does_not_hold_for_a_job_that_was_retried(connect: Connect, queue: WorkerQueue) -> None:
    """It came too late for a job that was dead already, and goes with the retry by hand."""
    queue.enqueue("job", max_retries=0)
    (job,) = queue.claim()
    operator = connect(autocommit=False)
    assert Queue(operator).cancel(job.id) == "requested"
    assert queue.fail(job).outcome == "dead"
    operator.commit()
    assert queue.retry(job.id) == "retry"
    (again,) = queue.claim()
    assert queue.cancel_requested([again]) == set()
    assert queue.fail(again).outcome == "dead"


def test_a_retry_never_runs_a_job_beside_its_old_attempt(queue: WorkerQueue) -> None:
    """A job that is to be cancelled still runs: it can be retried when its worker has given it up."""
    queue.enqueue("job")
    (job,) = queue.claim()
    queue.cancel(job.id)
    with pytest.raises(pgq.WrongState):
        queue.retry(job.id)
    assert queue.claim() == []
    queue.cancel_claimed(job, "as asked")
    assert queue.retry(job.id) == "retry"
    (again,) = queue.claim()
    assert again.token > job.token
    for late in (queue.release, queue.complete, queue.extend):
        with pytest.raises(pgq.LeaseLost):
            late(job)


def test_many_cancels_in_one_transaction_take_no_subtransactions(connect: Connect, queue: WorkerQueue) -> None:
    """Other sessions must look up on disk the subtransactions of one that has more than 64 of them."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(100))
    operator = connect(autocommit=False)
    done = operator.execute("SELECT pgq_cancel(id) FROM pgq_jobs").fetchall()
    assert done == [("cancelled",)] * 100
    assert one(operator, "SELECT count(DISTINCT xmin::text) FROM pgq_ended") == 1
