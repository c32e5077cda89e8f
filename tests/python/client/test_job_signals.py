"""Signals for jobs: none is lost, whichever transaction commits first, and none waits for a handler."""

from __future__ import annotations

import random
from datetime import timedelta

import psycopg
import pytest
from support.database import Connect, Connection, one, waits_for_lock
from support.threads import Thread, eventually

import pgq
from pgq import Job, Queue, WorkerQueue

HOUR = timedelta(hours=1)


def claimed(queue: WorkerQueue, kind: str = "job") -> Job:
    """Enqueue a job, and claim it."""
    queue.enqueue(kind, dedup_key="x")
    (job,) = queue.claim()
    return job


def maintain(connect: Connect) -> None:
    """Do the maintenance of a claim in a new session, which does it in its first claim."""
    with connect() as conn:
        WorkerQueue(conn).claim(["none"])


def wakes(connect: Connect, queue: WorkerQueue) -> Job:
    """Return the job once a claim takes it, with the maintenance of other sessions on the side."""

    def claim() -> list[Job]:
        maintain(connect)
        return queue.claim()

    (job,) = eventually(claim, "the job is ripe")
    return job


def test_a_value_goes_through_save_and_signal(queue: WorkerQueue) -> None:
    """Both take what is JSON, and the payload comes back decoded."""
    job = claimed(queue)
    queue.save(job, {"page": 2})
    assert queue.signal(job.id, "go", {"by": ["x"]})
    assert not queue.signal(job.id, "go", 2)
    assert queue.signal_key("job", "x", "none") == job.id
    assert queue.wait_signal(job, "go").value == {"by": ["x"]}
    assert queue.wait_signal(job, "none", timedelta()) == pgq.SignalWait("received", None, None)
    waits = queue.wait_signal(job, "later", HOUR)
    assert (waits.outcome, waits.value) == ("waiting", None)
    queue.signal(job.id, "later")
    (again,) = queue.claim()
    assert (again.saved, again.attempt) == ('{"page": 2}', 1)


def test_a_signal_that_is_sent_during_the_wait_is_found_by_maintenance(connect: Connect, queue: WorkerQueue) -> None:
    """Maintenance does not look before the transaction has ended in which the job begins to wait."""
    job = claimed(queue)
    handler = connect(autocommit=False)
    assert WorkerQueue(handler).wait_signal(job, "go", HOUR).outcome == "waiting"
    queue.signal(job.id, "go")
    maintain(connect)
    handler.commit()
    assert wakes(connect, queue).id == job.id


def test_a_signal_that_commits_after_the_wait_is_found_by_maintenance(connect: Connect, queue: WorkerQueue) -> None:
    """Neither of the two transactions has seen the other."""
    job = claimed(queue)
    handler, sender = connect(autocommit=False), connect(autocommit=False)
    Queue(sender).signal(job.id, "go")
    assert WorkerQueue(handler).wait_signal(job, "go", HOUR).outcome == "waiting"
    handler.commit()
    assert queue.claim() == []
    sender.commit()
    assert wakes(connect, queue).id == job.id


def test_a_signal_for_a_locked_job_is_found_by_maintenance(connect: Connect, queue: WorkerQueue) -> None:
    """A transaction that has the waiting job locked neither keeps the sender waiting nor makes it miss the job."""
    job = claimed(queue)
    queue.wait_signal(job, "go", HOUR)
    other = connect(autocommit=False)
    other.execute("SELECT FROM pgq_waiting FOR UPDATE")
    queue.signal(job.id, "go")
    maintain(connect)
    other.rollback()
    assert wakes(connect, queue).id == job.id


def test_the_signal_of_a_transaction_that_rolls_back_is_none(connect: Connect, queue: WorkerQueue) -> None:
    """The job stays where it is."""
    job = claimed(queue)
    queue.wait_signal(job, "go", HOUR)
    sender = connect(autocommit=False)
    assert Queue(sender).signal(job.id, "go")
    assert queue.claim() == []
    sender.rollback()
    maintain(connect)
    assert queue.claim() == []
    assert queue.signal(job.id, "go")


def test_a_sender_never_waits_for_a_handler(connect: Connect, queue: WorkerQueue) -> None:
    """Neither for one that holds its job, nor for one that saves, nor for one that begins to wait."""
    job = claimed(queue)
    handler = connect(autocommit=False)
    held = WorkerQueue(handler)
    queue.conn.execute("SET lock_timeout = '1ms'")
    held.hold(job)
    assert queue.signal(job.id, "a")
    held.save(job, 1)
    assert queue.signal(job.id, "b")
    held.wait_signal(job, "c", HOUR)
    assert queue.signal(job.id, "c")


@pytest.mark.parametrize("way", ["release", "wait_signal", "fail"])
def test_a_signal_that_commits_after_a_merge_reaches_the_twin(connect: Connect, queue: WorkerQueue, way: str) -> None:
    """Maintenance hands it over."""
    job = claimed(queue)
    twin = queue.enqueue("job", dedup_key="x")
    sender = connect(autocommit=False)
    Queue(sender).signal(job.id, "go", 7)
    merged = {
        "release": lambda: queue.release(job),
        "wait_signal": lambda: queue.wait_signal(job, "go", HOUR).outcome,
        "fail": lambda: queue.fail(job, "no", timedelta()).outcome,
    }[way]()
    assert merged == "merged"
    sender.commit()
    maintain(connect)
    again = wakes(connect, queue)
    assert again.id == twin.id
    assert queue.wait_signal(again, "go").value == 7


def test_a_merge_beside_a_signal_for_the_twin_loses_no_wake_up(connect: Connect, queue: WorkerQueue) -> None:
    """The twin begins to wait by the merge, while the signal for it is not committed."""
    job = claimed(queue)
    twin = queue.enqueue("job", dedup_key="x")
    sender, handler = connect(autocommit=False), connect(autocommit=False)
    Queue(sender).signal(twin.id, "go")
    assert WorkerQueue(handler).wait_signal(job, "go", HOUR).outcome == "merged"
    sender.commit()
    maintain(connect)
    handler.commit()
    assert wakes(connect, queue).id == twin.id


def test_a_wait_in_an_old_snapshot_is_short(connect: Connect, queue: WorkerQueue) -> None:
    """It does not see the signals that maintenance has looked at, so the job looks again a second later."""
    job = claimed(queue)
    handler = connect(autocommit=False)
    handler.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    handler.execute("SELECT")
    queue.signal(job.id, "go")
    maintain(connect)
    assert WorkerQueue(handler).wait_signal(job, "go", HOUR).outcome == "waiting"
    handler.commit()
    assert one(queue.conn, "SELECT ripe_at <= clock_timestamp() + interval '1 second' FROM pgq_waiting")


def test_a_lock_that_a_role_keeps_makes_a_wait_short(connect: Connect, queue: WorkerQueue) -> None:
    """Without the lock, maintenance might look too early."""
    job = claimed(queue)
    connect().execute("SELECT pg_advisory_lock(_pgq_wait_class(), n) FROM generate_series(0, 1023) AS n")
    queue.wait_signal(job, "go", HOUR)
    assert one(queue.conn, "SELECT ripe_at <= clock_timestamp() + interval '1 second' FROM pgq_waiting")


def test_no_signal_is_lost_among_sessions_that_wait_and_send(connect: Connect, queue: WorkerQueue) -> None:
    """Each job waits for one signal, which another session sends at a random moment, sometimes twice."""
    ids = [queue.enqueue("job", n).id for n in range(400)]

    def send(conn: Connection, mine: list[int], seed: int) -> None:
        rng = random.Random(seed)
        conn.autocommit = False
        for job_id in mine:
            assert Queue(conn).signal(job_id, "go", job_id)
            if rng.random() < 0.2:
                conn.execute("SELECT pg_sleep(0.002)")
            conn.commit()

    def work(conn: Connection) -> list[int]:
        done: list[int] = []
        conn.autocommit = False
        worker = WorkerQueue(conn)
        while one(conn, "SELECT (SELECT count(*) FROM pgq_waiting) + (SELECT count(*) FROM _pgq_running) > 0"):
            for job in worker.claim(max_jobs=5):
                conn.commit()
                waits = worker.wait_signal(job, "go", HOUR)
                if waits.outcome == "received":
                    assert waits.value == job.id
                    worker.complete(job)
                    done.append(job.id)
            conn.commit()
        return done

    random.Random(5).shuffle(ids)
    threads = [Thread(work, connect()) for _ in range(4)]
    senders = [Thread(send, connect(), ids[n::4], n) for n in range(4)]
    for sender in senders:
        sender.result()
    assert sorted(job_id for thread in threads for job_id in thread.result()) == sorted(ids)
    assert one(queue.conn, "SELECT count(*) FROM pgq_signal_wait") == 0


def test_a_merge_into_a_twin_that_has_the_signal_already_wakes_it(connect: Connect, queue: WorkerQueue) -> None:
    """Maintenance has looked at the signal before, and does not look again."""
    job = claimed(queue)
    twin = queue.enqueue("job", dedup_key="x")
    queue.signal(twin.id, "go")
    maintain(connect)
    assert not one(queue.conn, "SELECT unseen FROM pgq_job_signal")
    assert queue.wait_signal(job, "go", HOUR).outcome == "merged"
    assert [again.id for again in queue.claim()] == [twin.id]


def test_a_job_whose_twin_is_claimed_meanwhile_gets_its_own_signals(connect: Connect, queue: WorkerQueue) -> None:
    """It waits after all, so nothing may say that it has merged."""
    job = claimed(queue)
    queue.signal(job.id, "first")
    queue.enqueue("job", dedup_key="x")
    other, worker = connect(), connect()
    with other.transaction():
        # A row lock lets the insert meet the twin, and stops the update.
        other.execute("SELECT FROM pgq_waiting FOR UPDATE")
        thread = Thread(WorkerQueue(worker).wait_signal, job, "go", HOUR)
        eventually(lambda: waits_for_lock(queue.conn, worker), "the merge waits for the claim of the twin")
        (twin,) = WorkerQueue(other).claim()
    assert thread.result().outcome == "waiting"
    queue.complete(twin)
    assert queue.signal(job.id, "go")
    assert [again.id for again in queue.claim()] == [job.id]
