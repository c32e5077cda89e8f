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
# Without a flush of statistics, which takes seconds in PostgreSQL 14.
ENTRIES_READ = "SELECT pg_stat_get_xact_tuples_returned('pgq_ended_ended_at'::regclass)"
PAGES_READ = "SELECT pg_stat_get_xact_blocks_fetched('pgq_ended'::regclass)"


@pytest.fixture
def step(connect: Connect, clock: Clock) -> WorkerQueue:
    """A session that makes a step by each claim, a second apart."""
    return WorkerQueue(connect())


def claim(queue: WorkerQueue, clock: Clock, times: int = 1) -> None:
    """Claim so often, each time a second later, so that each claim does the maintenance."""
    for _ in range(times):
        clock.tick(timedelta(seconds=1.1))
        queue.claim(["nowhere"])


def hold_snapshot(conn: Connection) -> None:
    """Let the session of a connection hold a snapshot for as long as it lives."""
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    conn.execute("SELECT count(*) FROM pgq_ended")


def most_read(clock: Clock, queue: WorkerQueue, looks: int) -> int:
    """Look for old jobs so often, each time a minute later; return the most index entries that a look has read."""
    most = 0
    for _ in range(looks):
        clock.tick(timedelta(minutes=1))
        with queue.conn.transaction():
            before = one(queue.conn, ENTRIES_READ)
            claim(queue, clock)
            most = max(most, one(queue.conn, ENTRIES_READ) - before)
    return most


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
def test_a_job_that_a_transaction_has_locked_is_left_to_a_later_step(
    conn: Connection, connect: Connect, clock: Clock, step: WorkerQueue
) -> None:
    """It is the first of all. The claim does not wait."""
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
    """Neither does a later one, also in a new session."""
    conn.execute(FILL, [5500])
    hold_snapshot(connect())
    clock.tick(timedelta(days=60))
    for left in (4500, 3500, 2500, 1500, 500, 0):
        before = read("pgq_ended_ended_at", conn, step.conn)
        claim(step, clock)
        assert one(conn, LEFT) == left
        assert read("pgq_ended_ended_at", conn, step.conn) - before <= 1010
    conn.execute(FILL, [10])
    clock.tick(timedelta(days=8))
    other = WorkerQueue(connect())
    assert most_read(clock, other, looks=1) <= 40
    assert one(conn, LEFT) == 0
    assert most_read(clock, step, looks=200) <= 40
    # A new setting may hold for jobs that the steps have passed, but not for those that all lanes have.
    conn.execute("""SELECT pgq_configure('q', '{"keep_done": "20 days"}')""")
    assert most_read(clock, step, looks=1) <= 40


@pytest.mark.happens("a snapshot is held while old jobs are deleted")
def test_under_a_held_snapshot_jobs_that_are_kept_longer_send_no_step_back(
    conn: Connection, connect: Connect, clock: Clock, step: WorkerQueue
) -> None:
    """A dead job lies before those that are done, and are deleted."""
    conn.execute(FILL, [1])
    conn.execute("UPDATE pgq_ended SET outcome = 'dead'")
    conn.execute(FILL, [2500])
    hold_snapshot(connect())
    clock.tick(timedelta(days=8))
    claim(step, clock, 3)
    assert one(conn, LEFT) == 1
    assert most_read(clock, step, looks=3) <= 40
    assert most_read(clock, WorkerQueue(connect()), looks=1) <= 40


@pytest.mark.happens("a snapshot is held while old jobs are deleted")
def test_under_a_held_snapshot_jobs_that_an_operator_has_purged_are_passed_once(
    conn: Connection, connect: Connect, clock: Clock, step: WorkerQueue
) -> None:
    conn.execute(FILL, [2500])
    hold_snapshot(connect())
    clock.tick(timedelta(days=8))
    assert one(conn, "SELECT pgq_purge('0', 'done')") == 2500
    conn.execute(FILL, [1])
    assert most_read(clock, step, looks=1) >= 2500
    assert most_read(clock, step, looks=3) <= 40
    assert most_read(clock, WorkerQueue(connect()), looks=1) <= 40


def test_a_step_looks_for_what_was_left_in_a_hundred_pages(conn: Connection, clock: Clock, step: WorkerQueue) -> None:
    """The table has more of them, and jobs that are kept."""
    conn.execute(FILL, [3000])
    conn.execute("UPDATE pgq_ended SET outcome = 'dead', args = to_jsonb(repeat('x', 1000))")
    conn.execute("VACUUM FULL pgq_ended")
    assert one(conn, "SELECT pg_relation_size('pgq_ended') / 8192") > 200
    clock.tick(timedelta(days=8))
    claim(step, clock, 3)
    clock.tick(timedelta(minutes=1))
    with step.conn.transaction():
        before = one(step.conn, PAGES_READ)
        claim(step, clock)
        assert 100 <= one(step.conn, PAGES_READ) - before <= 110


def test_a_job_that_committed_late_is_found_in_the_table(
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
    clock.tick(timedelta(minutes=1))
    claim(step, clock)
    assert one(conn, LEFT) == 0


def test_steps_read_the_last_five_seconds_once_more(
    conn: Connection, connect: Connect, clock: Clock, step: WorkerQueue
) -> None:
    """So jobs that are kept for no time are deleted soon, also those that commit after one of later time is."""
    conn.execute("""SELECT pgq_configure('default', '{"keep_done": "0"}')""")
    late = connect(autocommit=False)
    late.execute(FILL, [2500])
    conn.execute(FILL, [2600])
    conn.execute("DELETE FROM pgq_ended WHERE ended_at < (SELECT max(ended_at) FROM pgq_ended)")
    clock.tick(timedelta(seconds=2))
    claim(step, clock)
    assert one(conn, LEFT) == 0
    late.commit()
    clock.tick(timedelta(minutes=1))
    claim(step, clock, 3)
    assert one(conn, LEFT) == 0


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
