"""Delays, backoff and leases, under a clock that freezegun and the database share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from support.database import Connect, Connection, one

from pgq import WorkerQueue
from pgq.testing import Clock, time_travel

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def hours(n: float) -> timedelta:
    """Return this number of hours."""
    return timedelta(hours=n)


def test_a_delayed_job_is_never_early(queue: WorkerQueue, clock: Clock) -> None:
    """Of two jobs due in 4 and 8 hours, none is ripe now or in 2 hours, the first is in 5, the second in 20."""
    queue.enqueue("first", delay=hours(4))
    queue.enqueue("second", ripe_at=datetime.now(UTC) + hours(8))
    seen = {}
    for hour in (0, 2, 5, 20):
        clock.move_to(NOON + hours(hour))
        seen[hour] = [job.kind for job in queue.claim(max_jobs=10, lease="1 day")]
    assert seen == {0: [], 2: [], 5: ["first"], 20: ["second"]}


def test_a_job_is_ripe_at_its_very_microsecond(queue: WorkerQueue, clock: Clock) -> None:
    queue.enqueue("k", ripe_at=NOON + hours(1))
    clock.move_to(NOON + hours(1) - timedelta(microseconds=1))
    assert queue.claim() == []
    clock.tick(timedelta(microseconds=1))
    assert len(queue.claim()) == 1


def test_both_clocks_move_together(conn: Connection, clock: Clock) -> None:
    """Python and the database agree about the time, and about how much of it has passed."""
    assert one(conn, "SELECT pgq_now()") == datetime.now(UTC) == NOON
    clock.tick(hours(1.5))
    assert one(conn, "SELECT pgq_now()") == datetime.now(UTC) == NOON + hours(1.5)


def test_the_backoff_doubles_with_each_failure_up_to_the_cap(
    conn: Connection, queue: WorkerQueue, clock: Clock
) -> None:
    """No attempt is early, and after the last retry the job is dead."""
    conn.execute("SET pgq.jitter = '0'")
    queue.enqueue("k", max_retries=4, backoff="1 minute", backoff_cap="5 minutes")
    delays = []
    for attempt in range(1, 6):
        (job,) = queue.claim()
        assert job.attempt == attempt
        failure = queue.fail(job, "no")
        if failure.ripe_at is None:
            break
        delays.append((failure.ripe_at - datetime.now(UTC)) / timedelta(minutes=1))
        clock.move_to(failure.ripe_at - timedelta(seconds=1))
        assert queue.claim() == []
        clock.tick(timedelta(seconds=1))
    assert (delays, failure.outcome) == ([1, 2, 4, 5], "dead")


def test_the_jitter_spreads_retries_by_a_tenth(queue: WorkerQueue, clock: Clock) -> None:
    """Jobs that fail together are retried at different times, all near their backoff."""
    queue.enqueue_many({"kind": "k", "args": n, "backoff": "100 minutes", "backoff_cap": "1 day"} for n in range(50))
    ripe = [queue.fail(job).ripe_at for job in queue.claim(max_jobs=50)]
    delays = [(at - datetime.now(UTC)) / timedelta(minutes=1) for at in ripe if at]
    assert len(set(delays)) > 40
    assert 90 <= min(delays) < max(delays) <= 110


def test_a_lease_ends_by_the_clock_of_the_database(queue: WorkerQueue, clock: Clock) -> None:
    """The job goes to the next worker then, and not before; an extension moves the end."""
    queue.enqueue("k")
    (job,) = queue.claim(lease=timedelta(minutes=10))
    assert job.lease_until == NOON + timedelta(minutes=10)
    clock.tick(timedelta(minutes=9))
    assert queue.extend(job, timedelta(minutes=10)) == NOON + timedelta(minutes=19)
    clock.tick(timedelta(minutes=9))
    assert queue.claim() == []
    clock.tick(timedelta(minutes=2))
    assert [again.attempt for again in queue.claim()] == [2]


def test_a_snoozed_job_is_ripe_on_time_and_its_attempt_does_not_count(queue: WorkerQueue, clock: Clock) -> None:
    queue.enqueue("k")
    (job,) = queue.claim()
    assert queue.snooze(job, NOON + hours(3)) == "snoozed"
    clock.tick(hours(2))
    assert queue.claim() == []
    clock.tick(hours(1))
    assert [again.attempt for again in queue.claim()] == [1]


def test_time_travel_ends_with_its_block(conn: Connection, connect: Connect) -> None:
    """Afterwards this process and each session that travelled are back in real time; other sessions never left it."""
    other, bystander = connect(), connect()
    with time_travel(conn, other, to="2001-01-01"):
        for traveller in (conn, other):
            assert one(traveller, "SELECT pgq_now()") == datetime(2001, 1, 1, tzinfo=UTC)
        assert one(bystander, "SELECT abs(extract(epoch FROM pgq_now() - clock_timestamp())) < 60")
    assert datetime.now(UTC).year > 2001
    for back in (conn, other):
        assert one(back, "SELECT abs(extract(epoch FROM pgq_now() - clock_timestamp())) < 60")


def test_a_database_without_the_test_kit_does_not_travel(conn: Connection) -> None:
    """The clock that pgq ships reads no setting, so a role that may claim cannot make jobs ripe."""
    conn.execute(
        "CREATE OR REPLACE FUNCTION pgq_now() RETURNS timestamptz LANGUAGE sql VOLATILE RETURN clock_timestamp()"
    )
    with pytest.raises(RuntimeError, match="testkit"), time_travel(conn, to="2001-01-01"):
        pytest.fail("must not be entered")
    assert datetime.now(UTC).year > 2001
