"""A role that may use one queue notices nothing of the others: no job, no twin, not even a wait for a lock."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import Connect, Connection, expire, one

from pgq import Job, JobNotFound, LeaseLost, NewJob, Queue, WorkerQueue
from pgq.new_job import OnDuplicate


@pytest.fixture
def limited(conn: Connection, dsn: str) -> Iterator[WorkerQueue]:
    """The queue for a role that has all privileges in queue "mine" only, and that waits for no lock."""
    conn.execute("DROP ROLE IF EXISTS limited")
    conn.execute("CREATE ROLE limited LOGIN")
    for what in ("producer", "worker", "admin", "reader"):
        conn.execute("SELECT pgq_grant('limited', %s, '{mine}')", [what])
    with psycopg.connect(make_conninfo(dsn, user="limited"), autocommit=True) as opened:
        opened.execute("SET lock_timeout = '1ms'")
        yield WorkerQueue(opened)


def held(conn: Connection, connect: Connect) -> Job:
    """Return a running job in the queue "theirs" that its worker's transaction holds."""
    Queue(conn).enqueue("k", queue="theirs")
    worker = WorkerQueue(connect(autocommit=False))
    (job,) = worker.claim(["theirs"])
    worker.conn.commit()
    worker.hold(job)
    return job


def test_a_role_works_in_its_own_queue(limited: WorkerQueue) -> None:
    """The job is enqueued, claimed, completed and purged."""
    assert limited.enqueue("k", queue="mine").created
    (job,) = limited.claim(["mine"])
    limited.complete(job, "done")
    assert one(limited.conn, "SELECT state FROM pgq_jobs") == "done"
    assert limited.purge("0") == 1


@pytest.mark.parametrize("on_duplicate", ["keep", "replace", "soonest", "error"])
def test_an_enqueue_is_refused_before_it_meets_a_twin(
    limited: Queue, connect: Connect, on_duplicate: OnDuplicate
) -> None:
    """The role notices neither the twin nor the transaction that is about to insert it."""
    producer = Queue(connect(autocommit=False))
    producer.enqueue("k", queue="theirs")
    twin: NewJob = {"kind": "k", "queue": "theirs", "on_duplicate": on_duplicate}
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match='role "limited" may not use queue "theirs"'):
        limited.conn.execute("SELECT pgq_enqueue('k', queue => 'theirs', on_duplicate => %s)", [on_duplicate])
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match='role "limited" may not use queue "theirs"'):
        limited.enqueue_many([{"kind": "k", "queue": "mine"}, twin])
    producer.conn.commit()
    assert one(producer.conn, "SELECT count(*) FROM pgq_jobs") == 1


def test_a_call_does_not_wait_for_a_job_in_another_queue(
    limited: WorkerQueue, conn: Connection, connect: Connect
) -> None:
    """The job is locked, but each call fails as for a job that does not exist, even with its id and token."""
    job = held(conn, connect)
    with pytest.raises(JobNotFound):
        limited.cancel(job.id)
    with pytest.raises(JobNotFound):
        limited.retry(job.id)
    for verb in (limited.hold, limited.complete, limited.fail, limited.extend, limited.release):
        with pytest.raises(LeaseLost):
            verb(job)
    assert limited.complete_many([job]) == set()


def test_a_call_waits_for_a_job_in_an_allowed_queue(limited: WorkerQueue, conn: Connection, connect: Connect) -> None:
    """Without this the previous test would prove nothing. Only a cancel does not wait."""
    conn.execute("SELECT pgq_grant('limited', 'admin', '{theirs}'), pgq_grant('limited', 'worker', '{theirs}')")
    job = held(conn, connect)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        limited.release(job)
    assert limited.cancel(job.id) == "requested"


def test_a_claim_rescues_the_jobs_of_all_queues(limited: WorkerQueue, conn: Connection) -> None:
    """A job in another queue whose worker hangs waits again, but the claim does not return it."""
    Queue(conn).enqueue("k", queue="theirs")
    (job,) = WorkerQueue(conn).claim(["theirs"])
    expire(conn)
    assert limited.claim(["mine"]) == []
    assert one(conn, "SELECT state FROM pgq_jobs WHERE id = %s", job.id) == "waiting"
