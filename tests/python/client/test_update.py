"""Changing a waiting job while other sessions claim it, lock it or enqueue its twin."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg
import pytest
from psycopg import sql
from support.database import Connect, Connection, one, waits_for_lock
from support.threads import Thread, eventually

from pgq import DuplicateJob, JobNotFound, Queue, WorkerQueue, WrongState

LATER = datetime(2040, 1, 1, tzinfo=UTC)


def test_what_is_given_changes(queue: WorkerQueue) -> None:
    """None is the JSON null in args, and leaves all else as it is."""
    job = queue.enqueue("k", {"a": 1}, priority=3)
    assert queue.update(job.id, ripe_at=LATER, priority=1, group_key="g") == LATER
    shown = "SELECT to_jsonb(ARRAY[args, to_jsonb(priority), to_jsonb(group_key)]) FROM pgq_jobs WHERE id = %s"
    assert one(queue.conn, shown, job.id) == [{"a": 1}, 1, "g"]
    assert queue.update(job.id, args=None, group_key="") == LATER
    assert one(queue.conn, shown, job.id) == [None, 1, None]
    with pytest.raises(ValueError, match="has no time zone"):
        queue.update(job.id, ripe_at=datetime(2040, 1, 1))
    queue.enqueue("k", "twin")
    with pytest.raises(DuplicateJob):
        queue.update(job.id, args="twin")
    queue.update(job.id, ripe_at=datetime.now(UTC))
    queue.claim(max_jobs=2)
    with pytest.raises(WrongState):
        queue.update(job.id, priority=2)
    with pytest.raises(JobNotFound):
        queue.update(job.id + 1000, priority=2)


def test_a_job_that_another_transaction_has_locked_is_refused_after_a_while(
    queue: WorkerQueue, connect: Connect
) -> None:
    """A duplicate has locked it against other args only; a claim and a change lock it against all."""
    job = queue.enqueue("k")
    other = connect()
    with other.transaction():
        Queue(other).enqueue("k")
        queue.update(job.id, priority=1)
        with pytest.raises(psycopg.errors.LockNotAvailable, match=rf"has locked job {job.id}") as caught:
            queue.update(job.id, args=1)
        assert caught.value.diag.message_hint
    with other.transaction():
        WorkerQueue(other).claim()
        with pytest.raises(psycopg.errors.LockNotAvailable, match=rf"has locked job {job.id}"):
            queue.update(job.id, priority=2)


def waits_or_has_ended(conn: Connection, other: Connection, thread: Thread) -> bool:
    return waits_for_lock(conn, other) or not thread.is_alive()


def test_a_job_that_is_claimed_while_a_change_waits_is_left_alone(
    conn: Connection, queue: WorkerQueue, connect: Connect
) -> None:
    """The wait may also end before the claim commits, on a busy machine: then all begins again."""
    for n in range(100):
        job = queue.enqueue("k", n)
        worker, changer = connect(autocommit=False), connect()
        WorkerQueue(worker).claim()
        thread = Thread(Queue(changer).update, job.id, priority=1)
        eventually(partial(waits_or_has_ended, conn, changer, thread))
        worker.commit()
        try:
            thread.result()
        except psycopg.errors.LockNotAvailable:
            continue
        except WrongState:
            return
        pytest.fail("the change of a running job was not refused")


def test_a_twin_that_is_not_committed_yet_is_waited_for_for_a_while(queue: WorkerQueue, connect: Connect) -> None:
    job = queue.enqueue("k")
    other = connect(autocommit=False)
    Queue(other).enqueue("k", "twin")
    with pytest.raises(psycopg.errors.LockNotAvailable, match="or enqueues its twin"):
        queue.update(job.id, args="twin")
    other.rollback()
    queue.update(job.id, args="twin")


def test_a_claim_gets_a_job_as_it_is_before_or_after_its_change(queue: WorkerQueue, connect: Connect) -> None:
    """Four sessions claim while four others change the same jobs: no change is lost without an error."""
    ids = [job.id for job in queue.enqueue_many({"kind": "k", "args": [n, 0]} for n in range(200))]

    def change(client: Queue, number: int) -> set[int]:
        changed = set()
        for job_id in ids[number::4][::-1]:
            try:
                client.update(job_id, args=[job_id, 1])
            except WrongState:
                continue
            changed.add(job_id)
        return changed

    def claim(worker: WorkerQueue) -> dict[int, int]:
        claimed: dict[int, int] = {}
        while jobs := worker.claim(max_jobs=3):
            claimed |= {job.id: job.args[1] for job in jobs}
        return claimed

    changes = [Thread(change, Queue(connect()), number) for number in range(4)]
    claims = [Thread(claim, WorkerQueue(connect())) for _ in range(4)]
    claimed = {job_id: version for thread in claims for job_id, version in thread.result().items()}
    changed = {job_id for thread in changes for job_id in thread.result()}
    # Those that were locked while the last session claimed.
    claimed |= claim(queue)
    assert set(claimed) == set(ids)
    assert {job_id for job_id, version in claimed.items() if version} == changed


def test_a_job_that_becomes_ripe_wakes_a_session(conn: Connection, queue: WorkerQueue, connect: Connect) -> None:
    job = queue.enqueue("k", delay=timedelta(hours=1))
    sleeper = connect()
    (channel,) = WorkerQueue(sleeper).idle()
    sleeper.execute(sql.SQL("LISTEN {}; LISTEN last").format(sql.Identifier(channel)))
    queue.update(job.id, args=1)
    conn.execute("NOTIFY last")
    queue.update(job.id, ripe_at=datetime.now(UTC))
    got = [notify.channel for notify in sleeper.notifies(timeout=20, stop_after=2)]
    assert got == ["last", channel]
