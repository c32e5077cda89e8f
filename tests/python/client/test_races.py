"""What two sessions at once may not do to each other."""

from __future__ import annotations

import psycopg
import pytest
from support.database import Connect, waits_for_lock
from support.threads import Thread, eventually

import pgq
from pgq import Queue


def test_duplicates_in_bulk_keep_their_twins_from_starting(connect: Connect, queue: Queue) -> None:
    """The same holds for the duplicates within enqueue_many."""
    first = queue.enqueue("job")
    producer = connect(autocommit=False)
    answers = Queue(producer).enqueue_many([{"kind": "job"}, {"kind": "other"}])
    assert answers[0] == pgq.Enqueued(first.id, created=False)
    assert queue.claim() == []
    producer.rollback()
    assert [job.id for job in queue.claim()] == [first.id]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_duplicate_in_bulk_whose_twin_is_being_claimed(connect: Connect, queue: Queue, ending: str) -> None:
    """If the claim commits, the duplicate is a new job; if it rolls back, it is a duplicate. No event is lost."""
    first = queue.enqueue("job")
    worker, producer = connect(autocommit=False), connect()
    Queue(worker).claim()
    thread = Thread(Queue(producer).enqueue_many, [{"kind": "job"}])
    eventually(lambda: waits_for_lock(queue.conn, producer), "the enqueue waits for the claim")
    getattr(worker, ending)()
    (second,) = thread.result()
    assert second.created == (ending == "commit")
    assert (second.id == first.id) == (ending == "rollback")


def test_a_cancelled_job_that_is_held_waits_for_its_handler(connect: Connect, queue: Queue) -> None:
    """The operator's cancel comes too late when the handler's transaction commits first, and says so."""
    answer = queue.enqueue("job")
    (job,) = queue.claim()
    worker, operator = connect(autocommit=False), connect()
    Queue(worker).hold(job)
    thread = Thread(Queue(operator).cancel, answer.id)
    eventually(lambda: waits_for_lock(queue.conn, operator), "the cancel waits")
    Queue(worker).complete(job)
    worker.commit()
    with pytest.raises(pgq.JobNotFound):
        thread.result()


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
def test_stricter_isolation_fails_cleanly(connect: Connect, queue: Queue, level: psycopg.IsolationLevel) -> None:
    """A claim with an old snapshot raises a serialization failure rather than hand out what is taken."""
    queue.enqueue("job")
    strict = connect(autocommit=False)
    strict.isolation_level = level
    strict.execute("SELECT count(*) FROM pgq_waiting")
    (job,) = queue.claim()
    queue.release(job)
    with pytest.raises(psycopg.errors.SerializationFailure):
        Queue(strict).enqueue("job")
