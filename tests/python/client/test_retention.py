"""Claims delete old jobs on the side: some at a time, without waiting, and without walking over dead entries."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from support.database import Connect, Connection, one, read
from support.threads import Thread, eventually

from pgq import WorkerQueue
from pgq.testing import Clock

FILL = (
    "INSERT INTO pgq_ended (id, queue, kind, args, priority, ripe_at, attempt, max_retries, dedup, enqueued_at, "
    "outcome, ended_at) SELECT nextval('pgq_job_id'), 'default', 'k', '{}', 5, pgq_now(), 1, 0, true, pgq_now(), "
    "'done', pgq_now() + n * interval '1 ms' FROM generate_series(1, %s) AS n"
)
LEFT = "SELECT count(*) FROM pgq_ended"


@pytest.fixture
def step(connect: Connect, clock: Clock) -> WorkerQueue:
    """A session that makes a step by each claim, a second apart."""
    return WorkerQueue(connect())


def claim(queue: WorkerQueue, clock: Clock, times: int = 1) -> None:
    """Claim so often, each time a second later, so that each claim does the maintenance."""
    for _ in range(times):
        clock.tick(timedelta(seconds=1.1))
        queue.claim(["nowhere"])


def test_sessions_take_turns_and_no_step_is_made_twice(conn: Connection, connect: Connect, clock: Clock) -> None:
    """Of eight sessions that claim at once, one makes a step; together they delete all."""
    conn.execute(FILL, [4500])
    clock.tick(timedelta(days=8))
    sessions = [WorkerQueue(connect()) for _ in range(8)]
    left = 4500
    while left:
        clock.tick(timedelta(seconds=1.1))
        for thread in [Thread(session.claim, ["nowhere"]) for session in sessions]:
            thread.result()
        before, left = left, one(conn, LEFT)
        assert left == max(before - 1000, 0)


def test_while_the_transaction_of_a_step_is_open_no_other_session_makes_one(
    conn: Connection, connect: Connect, clock: Clock, step: WorkerQueue
) -> None:
    conn.execute(FILL, [1500])
    clock.tick(timedelta(days=8))
    other = WorkerQueue(connect())
    with other.conn.transaction():
        claim(other, clock)
        claim(step, clock, 2)
        assert one(conn, "SELECT count(*) FROM pgq_head WHERE queue ~ 'ended'") == 0
    claim(step, clock)
    assert one(conn, LEFT) == 0


@pytest.mark.happens("the session that deletes old jobs is lost")
def test_a_step_of_a_session_that_is_lost_is_made_by_another(
    conn: Connection, connect: Connect, clock: Clock, step: WorkerQueue
) -> None:
    """It has deleted jobs, and has not committed."""
    conn.execute(FILL, [1500])
    clock.tick(timedelta(days=8))
    lost = WorkerQueue(connect(autocommit=False))
    claim(lost, clock)
    assert one(lost.conn, LEFT) == 500
    conn.execute("SELECT pg_terminate_backend(%s, 5000)", [lost.conn.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        lost.claim(["nowhere"])
    assert one(conn, LEFT) == 1500
    claim(step, clock)
    assert one(conn, LEFT) == 500
    claim(step, clock)
    assert one(conn, LEFT) == 0


@pytest.mark.happens("a transaction has locked an old job")
def test_a_job_that_a_transaction_has_locked_is_left_to_the_next_pass(
    conn: Connection, connect: Connect, clock: Clock, step: WorkerQueue
) -> None:
    """It is the first of all: neither does the claim wait, nor does the next pass begin after it."""
    conn.execute(FILL, [1500])
    clock.tick(timedelta(days=8))
    other = connect()
    with other.transaction():
        other.execute("SELECT FROM pgq_ended ORDER BY ended_at LIMIT 1 FOR UPDATE")
        claim(step, clock, 3)
        assert one(conn, LEFT) == 1
    clock.tick(timedelta(minutes=1))
    claim(step, clock)
    assert one(conn, LEFT) == 0


@pytest.mark.happens("a snapshot is held while old jobs are deleted")
def test_under_a_held_snapshot_a_step_reads_no_entries_of_the_steps_before(
    conn: Connection, connect: Connect, clock: Clock, step: WorkerQueue
) -> None:
    """Neither does the next pass, also in a new session."""
    conn.execute(FILL, [5500])
    holder = connect(autocommit=False)
    holder.execute("SET default_transaction_isolation = 'repeatable read'")
    holder.commit()
    holder.execute("SELECT count(*) FROM pgq_ended")
    clock.tick(timedelta(days=8))
    for left in (4500, 3500, 2500, 1500, 500, 0):
        before = read("pgq_ended_ended_at", conn, step.conn)
        claim(step, clock)
        assert one(conn, LEFT) == left
        assert read("pgq_ended_ended_at", conn, step.conn) - before <= 1010
    conn.execute(FILL, [10])
    clock.tick(timedelta(days=8))
    # One pass in fifty begins at the start.
    other = WorkerQueue(connect())
    other.conn.execute("SELECT setseed(0.5)")
    before = read("pgq_ended_ended_at", conn, other.conn)
    claim(other, clock)
    assert one(conn, LEFT) == 0
    assert read("pgq_ended_ended_at", conn, other.conn) - before <= 40
    holder.rollback()


def test_a_job_that_committed_late_is_found_by_a_pass_from_the_start(
    conn: Connection, connect: Connect, clock: Clock, step: WorkerQueue
) -> None:
    """Its time is before that of the jobs that were deleted."""
    late = connect(autocommit=False)
    late.execute(FILL, [1])
    clock.tick(timedelta(seconds=1))
    conn.execute(FILL, [10])
    clock.tick(timedelta(days=8))
    claim(step, clock)
    late.commit()
    assert one(conn, LEFT) == 1
    passes = 0
    while one(conn, LEFT):
        clock.tick(timedelta(minutes=1))
        claim(step, clock)
        passes += 1
        assert passes < 1000


def test_a_session_that_finds_nothing_to_delete_writes_nothing(
    conn: Connection, clock: Clock, step: WorkerQueue
) -> None:
    """Also where jobs are kept that are older than others may become."""
    conn.execute(FILL, [10])
    conn.execute("UPDATE pgq_ended SET outcome = 'dead'")
    clock.tick(timedelta(days=8))
    claim(step, clock)
    written = one(conn, "SELECT txid_current()")
    claim(step, clock, 5)
    clock.tick(timedelta(minutes=1))
    claim(step, clock, 5)
    assert one(conn, "SELECT txid_current()") == written + 1
    assert one(conn, LEFT) == 10


def test_a_claim_in_a_stricter_isolation_level_deletes_too(conn: Connection, clock: Clock, step: WorkerQueue) -> None:
    """It shares nothing, and the next claim goes on."""
    conn.execute(FILL, [1500])
    clock.tick(timedelta(days=8))
    step.conn.execute("SET default_transaction_isolation = 'repeatable read'")
    claim(step, clock, 2)
    eventually(lambda: one(conn, LEFT) == 0)
