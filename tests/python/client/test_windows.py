"""Windows: a job with dedup_for is enqueued once, whichever sessions enqueue it at the same time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from psycopg import sql
from support.database import Connect, Connection, one, waits_for_lock
from support.threads import Thread, eventually

from pgq import DuplicateJob, Enqueued, Queue, WorkerQueue
from pgq.testing import Clock

HOUR = timedelta(hours=1)


def test_of_eight_sessions_one_creates_the_job(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """For each of fifty keys, while a worker completes the jobs at once."""
    keys = [str(n) for n in range(50)]

    def enqueue(client: Queue) -> list[Enqueued]:
        return [client.enqueue("k", dedup_key=key, dedup_for=HOUR) for key in keys]

    threads = [Thread(enqueue, Queue(connect())) for _ in range(8)]
    done = 0
    while any(thread.is_alive() for thread in threads):
        for job in queue.claim(max_jobs=10):
            queue.complete(job)
            done += 1
    results = [thread.result() for thread in threads]
    for of_key in zip(*results, strict=True):
        assert sum(result.created for result in of_key) == 1
        assert len({result.id for result in of_key}) == 1
    assert done + len(queue.claim(max_jobs=100)) == 50
    assert one(conn, "SELECT count(*) FROM pgq_seen") == 50


@pytest.mark.happens("a transaction that has opened a window is rolled back")
@pytest.mark.parametrize("commits", [True, False])
def test_an_enqueue_waits_for_the_session_that_opens_the_window(
    conn: Connection, connect: Connect, commits: bool
) -> None:
    """After a commit it is a duplicate, and after a rollback it creates the job."""
    first, second = connect(autocommit=False), connect()
    job = Queue(first).enqueue("k", dedup_for=HOUR)
    thread = Thread(Queue(second).enqueue, "k", dedup_for=HOUR)
    eventually(lambda: waits_for_lock(conn, second))
    (first.commit if commits else first.rollback)()
    result = thread.result()
    assert result.created != commits
    assert (result.id == job.id) == commits


def test_an_enqueue_that_has_waited_for_a_window_looks_at_it_again(conn: Connection, connect: Connect) -> None:
    """The job is done before the session that has opened the window commits."""
    first, second = connect(autocommit=False), connect()
    worker = WorkerQueue(first)
    job = worker.enqueue("k", dedup_for=HOUR)
    worker.complete(worker.claim()[0])
    thread = Thread(Queue(second).enqueue, "k", dedup_for=HOUR)
    eventually(lambda: waits_for_lock(conn, second))
    first.commit()
    assert thread.result() == Enqueued(job.id, created=False)


def test_duplicates_do_not_wait_for_each_other(connect: Connect, queue: WorkerQueue) -> None:
    """Not even while the job runs, and the transaction of one of them is open."""
    job = queue.enqueue("k", dedup_for=HOUR)
    queue.claim()
    one_, other = connect(autocommit=False), connect()
    other.execute("SET lock_timeout = '2s'")
    assert Queue(one_).enqueue("k", dedup_for=HOUR) == Enqueued(job.id, created=False)
    assert Queue(other).enqueue("k", dedup_for=HOUR) == Enqueued(job.id, created=False)
    assert Queue(other).enqueue_many([{"kind": "k", "dedup_for": HOUR}]) == [Enqueued(job.id, created=False)]
    with pytest.raises(DuplicateJob):
        Queue(other).enqueue("k", dedup_for=HOUR, on_duplicate="error")


def test_calls_for_the_same_jobs_in_opposite_order_do_not_deadlock(connect: Connect, queue: Queue) -> None:
    jobs = [{"kind": "k", "args": n, "dedup_for": "1 hour"} for n in range(30)]
    for _ in range(5):
        threads = [Thread(Queue(connect()).enqueue_many, jobs[::order]) for order in (1, -1) * 4]
        created = sum(result.created for thread in threads for result in thread.result())
        assert created in {0, 30}
    assert one(queue.conn, "SELECT count(*) FROM pgq_waiting") == 30


def test_a_duplicate_that_makes_its_job_ripe_wakes_a_session(
    conn: Connection, queue: WorkerQueue, connect: Connect
) -> None:
    queue.enqueue("k", dedup_for=HOUR, delay=HOUR)
    sleeper = connect()
    (channel,) = WorkerQueue(sleeper).idle()
    sleeper.execute(sql.SQL("LISTEN {}; LISTEN last").format(sql.Identifier(channel)))
    queue.enqueue("k", dedup_for=HOUR)
    conn.execute("NOTIFY last")
    queue.enqueue("k", dedup_for=HOUR, on_duplicate="soonest")
    assert [notify.channel for notify in sleeper.notifies(timeout=20, stop_after=2)] == ["last", channel]


def test_a_window_is_a_duration_in_python_and_ends(queue: WorkerQueue, clock: Clock) -> None:
    job = queue.enqueue("k", dedup_for=timedelta(days=1))
    queue.complete(queue.claim()[0])
    clock.tick(timedelta(hours=23))
    assert queue.enqueue("k", dedup_for="1 day") == Enqueued(job.id, created=False)
    clock.tick(timedelta(hours=1))
    assert queue.enqueue("k", dedup_for="1 day").created
