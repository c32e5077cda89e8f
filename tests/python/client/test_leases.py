"""Leases between sessions: which session gets an expired job, and what its first worker can still do."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from support.database import Connect, Connection, expire, jobs, one

from pgq import LeaseLost, Queue, WorkerQueue


def test_a_worker_that_has_lost_its_lease_changes_nothing(conn: Connection, connect: Connect, queue: Queue) -> None:
    """Its calls raise, its writes roll back, and the next worker completes the job."""
    conn.execute("CREATE TABLE effect (worker text)")
    queue.enqueue("k")
    a, b = WorkerQueue(connect()), WorkerQueue(connect())
    (lost,) = a.claim(worker="a")
    expire(conn)
    (job,) = b.claim(worker="b")
    assert (job.id, job.attempt) == (lost.id, 2)

    def write_and_complete(worker: WorkerQueue) -> None:
        with worker.conn.transaction():
            worker.conn.execute("INSERT INTO effect VALUES ('a')")
            worker.complete(lost)

    with pytest.raises(LeaseLost):
        write_and_complete(a)
    assert one(conn, "SELECT count(*) FROM effect") == 0
    for verb in (a.hold, a.complete, a.fail, a.extend, a.release, lambda job: a.snooze(job, job.ripe_at)):
        with pytest.raises(LeaseLost):
            verb(lost)
    assert a.complete_many([lost]) == a.hold_many([lost]) == set()
    assert jobs(conn) == [(job.id, "running", 2)]
    b.complete(job)
    assert jobs(conn) == []


def test_a_held_job_is_not_rescued_after_its_lease(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """The session that holds it can complete it."""
    queue.enqueue("k")
    worker = WorkerQueue(connect())
    (job,) = worker.claim()
    expire(conn)
    conn.execute("SET lock_timeout = '2s'")
    with worker.conn.transaction():
        worker.hold(job)
        assert queue.claim() == []
        worker.complete(job)
    assert jobs(conn) == []


def test_jobs_that_are_held_together_are_not_rescued(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """The job whose lease is lost is left out; the session that holds the others completes them."""
    queue.enqueue_many([{"kind": "k", "args": n} for n in range(3)])
    worker = WorkerQueue(connect())
    held = worker.claim(max_jobs=3)
    queue.release(held[1])
    expire(conn)
    conn.execute("SET lock_timeout = '2s'")
    with worker.conn.transaction():
        assert worker.hold_many(held) == {held[0].id, held[2].id}
        assert [job.id for job in queue.claim(max_jobs=3)] == [held[1].id]
        assert worker.complete_many(held) == {held[0].id, held[2].id}
    assert jobs(conn) == [(held[1].id, "running", 1)]


def test_a_job_that_was_completed_meanwhile_cannot_be_held(connect: Connect, queue: WorkerQueue) -> None:
    """The call raises LeaseLost."""
    queue.enqueue("k")
    (job,) = queue.claim()
    queue.complete(job)
    with pytest.raises(LeaseLost):
        WorkerQueue(connect()).hold(job)


def test_a_token_is_not_reused_after_a_crash(conn: Connection, queue: WorkerQueue) -> None:
    """After a crash the sequence may repeat the values of claims that were not yet on disk."""
    queue.enqueue("k", backoff="0 seconds")
    tokens = set()
    for _ in range(3):
        conn.execute("SELECT setval('pgq_token', 1)")
        (job,) = queue.claim()
        tokens.add(job.token)
        queue.release(job)
    assert len(tokens) == 3


def test_extending_a_lease_does_not_wait_for_a_hold(connect: Connect, queue: WorkerQueue) -> None:
    """While a transactional handler holds its job, pgq_extend returns at once, and the lease stays as it is."""
    queue.enqueue("k")
    (job,) = queue.claim()
    holder, other = WorkerQueue(connect()), WorkerQueue(connect())
    other.conn.execute("SET lock_timeout = '2s'")
    with holder.conn.transaction():
        holder.hold(job)
        assert other.extend(job, timedelta(hours=1)) == job.lease_until
    assert other.extend(job, timedelta(hours=1)) > job.lease_until + timedelta(minutes=50)


def test_a_job_whose_lease_ends_after_its_last_retry_is_dead(conn: Connection, queue: WorkerQueue) -> None:
    """After its first lease it is ripe at once, whatever its backoff is."""
    enqueued = queue.enqueue("k", max_retries=1, backoff="1 hour")
    (job,) = queue.claim()
    expire(conn)
    (job,) = queue.claim()
    assert job.attempt == 2
    expire(conn)
    assert queue.claim() == []
    assert jobs(conn) == [(enqueued.id, "dead", 2)]


def test_concurrent_claims_rescue_expired_jobs_once(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """The second claim does not wait for the first, and neither rescues a job that the other has rescued."""
    queue.enqueue_many([{"kind": "k", "args": n} for n in range(60)])
    # Jobs of one claim would be lost together.
    for _ in range(60):
        queue.claim()
    expire(conn)
    a, b = connect(), connect()
    b.execute("SET lock_timeout = '2s'")
    with a.transaction(), b.transaction():
        WorkerQueue(a).claim(max_jobs=0)
        WorkerQueue(b).claim(max_jobs=0)
    assert one(conn, "SELECT count(*) FROM pgq_running") == 0
    assert one(conn, "SELECT count(*) FROM pgq_jobs WHERE jsonb_array_length(errors) = 1 AND attempt = 1") == 60


def test_workers_that_race_for_expired_jobs_get_each_job_once(
    conn: Connection, connect: Connect, queue: WorkerQueue, pool: ThreadPoolExecutor
) -> None:
    """Of four real threads exactly one gets the second attempt of each job."""
    ids = [job.id for job in queue.enqueue_many([{"kind": "k", "args": n} for n in range(200)])]
    for _ in ids:
        queue.claim()
    expire(conn)
    start = threading.Barrier(4)

    def claim(worker: WorkerQueue) -> list[tuple[int, int]]:
        start.wait(30)
        return [(job.id, job.attempt) for _ in range(8) for job in worker.claim(max_jobs=50)]

    futures = [pool.submit(claim, WorkerQueue(connect())) for _ in range(4)]
    claimed = [job for future in futures for job in future.result(30)]
    assert sorted(claimed) == [(id_, 2) for id_ in ids]


def test_an_expired_job_with_an_uncommitted_twin_does_not_block_claims(
    conn: Connection, connect: Connect, queue: WorkerQueue
) -> None:
    """The claim soon returns the others; after the commit the job merges with its twin, and its attempt counts."""
    blocked, *others = [job.id for job in queue.enqueue_many([{"kind": k} for k in ("k", "l", "m")])]
    for _ in range(3):
        queue.claim()
    expire(conn)
    expire(conn, blocked)
    producer = connect()
    with producer.transaction():
        twin = Queue(producer).enqueue("k")
        begun = time.monotonic()
        assert sorted(job.id for job in queue.claim(max_jobs=10)) == others
        assert time.monotonic() - begun < 5
        assert one(
            conn, "SELECT lease_until > clock_timestamp() - interval '9 s' FROM pgq_running WHERE id = %s", blocked
        )
    expire(conn, blocked)
    assert [(job.id, job.attempt) for job in queue.claim(max_jobs=10)] == [(twin.id, 2)]
    assert blocked not in {job[0] for job in jobs(conn)}


def test_a_claim_rescues_at_most_fifty_jobs(conn: Connection, queue: WorkerQueue) -> None:
    """A claim stays short however many workers have died."""
    queue.enqueue_many([{"kind": "k", "args": n} for n in range(120)])
    claimed: list[datetime] = [job.lease_until for _ in range(120) for job in queue.claim()]
    assert len(claimed) == 120
    expire(conn)
    assert [len(queue.claim(max_jobs=200)) for _ in range(4)] == [50, 50, 20, 0]
