"""Races between two sessions."""

from __future__ import annotations

import psycopg
import pytest
from support.database import Connect, waits_for_lock
from support.threads import Thread, eventually

import pgq
from pgq import Queue, WorkerQueue


def test_a_duplicate_in_bulk_keeps_its_twin_from_starting(connect: Connect, queue: WorkerQueue) -> None:
    """No claim takes the twin while the transaction of the duplicate is open."""
    first = queue.enqueue("job")
    producer = connect(autocommit=False)
    results = Queue(producer).enqueue_many([{"kind": "job"}, {"kind": "other"}])
    assert results[0] == pgq.Enqueued(first.id, created=False)
    assert queue.claim() == []
    producer.rollback()
    assert [job.id for job in queue.claim()] == [first.id]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_duplicate_in_bulk_waits_for_the_claim_of_its_twin(connect: Connect, queue: Queue, ending: str) -> None:
    """After a commit of the claim the job is new, after a rollback it is a duplicate."""
    first = queue.enqueue("job")
    worker, producer = connect(autocommit=False), connect()
    WorkerQueue(worker).claim()
    thread = Thread(Queue(producer).enqueue_many, [{"kind": "job"}])
    eventually(lambda: waits_for_lock(queue.conn, producer), "the enqueue waits for the claim")
    getattr(worker, ending)()
    (second,) = thread.result()
    assert second.created == (ending == "commit")
    assert (second.id == first.id) == (ending == "rollback")


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
def test_an_enqueue_with_an_old_snapshot_raises_a_serialization_failure(
    connect: Connect, queue: WorkerQueue, level: psycopg.IsolationLevel
) -> None:
    """In stricter isolation levels the caller must retry when jobs have moved since its snapshot."""
    queue.enqueue("job")
    strict = connect(autocommit=False)
    strict.isolation_level = level
    strict.execute("SELECT count(*) FROM pgq_waiting")
    (job,) = queue.claim()
    queue.release(job)
    with pytest.raises(psycopg.errors.SerializationFailure):
        Queue(strict).enqueue("job")
