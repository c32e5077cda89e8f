"""Leases between sessions: who takes an expired job, and what its first worker can still do."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from support.database import Connect, Connection, expire, jobs, one

from pgq import LeaseLost, Queue


def test_a_worker_that_has_lost_its_lease_changes_nothing(conn: Connection, connect: Connect, queue: Queue) -> None:
    """Its verbs raise, its writes roll back, and the next worker completes the job."""
    conn.execute("CREATE TABLE effect (worker text)")
    queue.enqueue("k")
    a, b = Queue(connect()), Queue(connect())
    (lost,) = a.claim(worker="a")
    expire(conn)
    (job,) = b.claim(worker="b")
    assert (job.id, job.attempt) == (lost.id, 2)

    def write_and_complete(worker: Queue) -> None:
        with worker.conn.transaction():
            worker.conn.execute("INSERT INTO effect VALUES ('a')")
            worker.complete(lost)

    with pytest.raises(LeaseLost):
        write_and_complete(a)
    assert one(conn, "SELECT count(*) FROM effect") == 0
    for verb in (a.hold, a.complete, a.fail, a.extend, a.release, lambda job: a.snooze(job, job.ripe_at)):
        with pytest.raises(LeaseLost):
            verb(lost)
    assert a.complete_many([lost]) == set()
    assert jobs(conn) == [(job.id, "running", 2)]
    b.complete(job)
    assert jobs(conn) == []


def test_a_held_job_is_not_taken_when_its_lease_has_run_out(conn: Connection, connect: Connect, queue: Queue) -> None:
    """And who holds it can complete it."""
    queue.enqueue("k")
    worker = Queue(connect())
    (job,) = worker.claim()
    expire(conn)
    conn.execute("SET lock_timeout = '2s'")
    with worker.conn.transaction():
        worker.hold(job)
        assert queue.claim() == []
        worker.complete(job)
    assert jobs(conn) == []


def test_a_job_that_somebody_else_completes_cannot_be_held(conn: Connection, connect: Connect, queue: Queue) -> None:
    """Who waits for the lock finds out that the job is gone."""
    queue.enqueue("k")
    (job,) = queue.claim()
    queue.complete(job)
    with pytest.raises(LeaseLost):
        Queue(connect()).hold(job)


def test_a_token_is_not_given_out_again_after_a_crash(conn: Connection, connect: Connect, queue: Queue) -> None:
    """A crash may set the sequence back to before claims that did not wait for the disk."""
    queue.enqueue("k", backoff="0 seconds")
    tokens = set()
    for _ in range(3):
        conn.execute("SELECT setval('pgq_token', 1)")
        (job,) = queue.claim()
        tokens.add(job.token)
        queue.release(job)
    assert len(tokens) == 3


def test_extending_a_lease_does_not_wait_for_a_hold(conn: Connection, connect: Connect, queue: Queue) -> None:
    """A heartbeat beside a handler in a transaction answers at once; the lease stays as it is."""
    queue.enqueue("k")
    (job,) = queue.claim()
    holder, heart = Queue(connect()), Queue(connect())
    heart.conn.execute("SET lock_timeout = '2s'")
    with holder.conn.transaction():
        holder.hold(job)
        assert heart.extend(job, timedelta(hours=1)) == job.lease_until
    assert heart.extend(job, timedelta(hours=1)) > job.lease_until + timedelta(minutes=50)


def test_a_lease_that_runs_out_twice_slows_the_job_down(conn: Connection, queue: Queue) -> None:
    """The first time it is ripe at once, then after the backoff; when the retries are used up it is buried."""
    answer = queue.enqueue("k", max_retries=1, backoff="1 hour")
    (job,) = queue.claim()
    expire(conn)
    (job,) = queue.claim()
    assert job.attempt == 2
    expire(conn)
    assert queue.claim() == []
    assert jobs(conn) == [(answer.id, "dead", 2)]


def test_expired_leases_are_settled_once_when_two_workers_claim_at_a_time(
    conn: Connection, connect: Connect, queue: Queue
) -> None:
    """The second does not wait for the first, and neither counts a job that the other has counted."""
    queue.enqueue_many([{"kind": "k", "args": n} for n in range(60)])
    queue.claim(max_jobs=60)
    expire(conn)
    a, b = connect(), connect()
    b.execute("SET lock_timeout = '2s'")
    with a.transaction(), b.transaction():
        Queue(a).claim(max_jobs=0)
        Queue(b).claim(max_jobs=0)
    assert one(conn, "SELECT count(*) FROM pgq_running") == 0
    assert one(conn, "SELECT count(*) FROM pgq_waiting WHERE jsonb_array_length(errors) = 1 AND attempt = 1") == 60


def test_workers_that_race_for_expired_leases_get_each_job_once(
    conn: Connection, connect: Connect, queue: Queue, pool: ThreadPoolExecutor
) -> None:
    """Four of them, in earnest: each job has its second attempt with exactly one of them."""
    ids = [answer.id for answer in queue.enqueue_many([{"kind": "k", "args": n} for n in range(200)])]
    queue.claim(max_jobs=200)
    expire(conn)
    start = threading.Barrier(4)

    def claim(worker: Queue) -> list[tuple[int, int]]:
        start.wait(10)
        return [(job.id, job.attempt) for _ in range(8) for job in worker.claim(max_jobs=50)]

    futures = [pool.submit(claim, Queue(connect())) for _ in range(4)]
    claimed = [job for future in futures for job in future.result(30)]
    assert sorted(claimed) == [(id_, 2) for id_ in ids]


def test_an_expired_job_whose_twin_is_not_committed_yet_stands_in_nobodys_way(
    conn: Connection, connect: Connect, queue: Queue
) -> None:
    """The claim returns soon, with the other expired jobs; after the producer's commit the two merge."""
    blocked, *others = [answer.id for answer in queue.enqueue_many([{"kind": k} for k in ("k", "l", "m")])]
    queue.claim(max_jobs=3)
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
    assert [(job.id, job.attempt) for job in queue.claim(max_jobs=10)] == [(twin.id, 1)]
    assert blocked not in {job[0] for job in jobs(conn)}


def test_a_claim_settles_expired_leases_in_order_and_number(conn: Connection, queue: Queue) -> None:
    """At most fifty at a time: a claim stays short however many workers have died."""
    queue.enqueue_many([{"kind": "k", "args": n} for n in range(120)])
    claimed: list[datetime] = [job.lease_until for job in queue.claim(max_jobs=120)]
    assert len(claimed) == 120
    expire(conn)
    assert [len(queue.claim(max_jobs=200)) for _ in range(4)] == [50, 50, 20, 0]
