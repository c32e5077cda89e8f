"""Delays, backoff and leases, under a clock that freezegun and the database share."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from pytest_postgresql.executors import NoopExecutor
from support.database import Connect, Connection, jobs, one
from support.workers import MakeWorker

from pgq import Drain, Handlers, WorkerQueue
from pgq.testing import Clock, testkit, time_travel

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


IN_REAL_TIME = "SELECT abs(extract(epoch FROM pgq_now() - clock_timestamp())) < 60"


def test_time_travel_ends_with_its_block(conn: Connection, connect: Connect) -> None:
    """All sessions of the database travel, also those that nobody has named; afterwards all are back in real time."""
    other, bystander = connect(), connect()
    with time_travel(conn, other, to="2001-01-01"):
        for traveller in (conn, other, bystander, connect()):
            assert one(traveller, "SELECT pgq_now()") == datetime(2001, 1, 1, tzinfo=UTC)
    assert datetime.now(UTC).year > 2001
    for back in (conn, other, bystander):
        assert one(back, IN_REAL_TIME)


@pytest.mark.parametrize("year", [1, 1969, 9999])
def test_any_year_of_python_can_be_travelled_to(conn: Connection, year: int) -> None:
    """To the microsecond."""
    with time_travel(conn, to=datetime(year, 12, 31, 23, 59, 59, 999999)):
        assert one(conn, "SELECT pgq_now()::text") == f"{year:04}-12-31 23:59:59.999999+00"


def test_other_databases_stay_in_real_time(dsn: str, conn: Connection, clock: Clock, template: NoopExecutor) -> None:
    """So tests that run at the same time, each in a database of its own, do not see each other's clocks."""
    conn.execute(f'CREATE DATABASE pgq_elsewhere TEMPLATE "{template.template_dbname}"'.encode())
    try:
        with psycopg.connect(make_conninfo(dsn, dbname="pgq_elsewhere"), autocommit=True) as elsewhere:
            assert one(elsewhere, IN_REAL_TIME)
            with time_travel(elsewhere, to="2001-01-01"):
                assert one(elsewhere, "SELECT pgq_now()").year == 2001
                assert one(conn, "SELECT pgq_now()") == NOON
    finally:
        conn.execute("DROP DATABASE pgq_elsewhere WITH (FORCE)")


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_no_rollback_undoes_a_move(conn: Connection, connect: Connect, isolation: str) -> None:
    """Neither of a transaction nor to a savepoint; and a move reaches every transaction at once."""
    inside = connect()
    with time_travel(inside, to=NOON) as clock:
        inside.execute(f"BEGIN ISOLATION LEVEL {isolation}".encode())
        assert one(inside, "SELECT pgq_now()") == NOON
        inside.execute("SAVEPOINT before")
        clock.tick(hours(1))
        inside.execute("ROLLBACK TO before")
        assert one(inside, "SELECT pgq_now()") == NOON + hours(1)
        clock.tick(hours(1))
        inside.execute("ROLLBACK")
        assert one(inside, "SELECT pgq_now()") == one(conn, "SELECT pgq_now()") == datetime.now(UTC) == NOON + hours(2)


def test_time_travel_goes_on_and_ends_in_a_failed_transaction(conn: Connection, connect: Connect) -> None:
    """The clock moves through a session of its own."""
    failed = connect(autocommit=False)
    with time_travel(failed, to=NOON) as clock:
        with pytest.raises(psycopg.errors.DivisionByZero):
            failed.execute("SELECT 1 / 0")
        clock.tick(hours(1))
        assert one(conn, "SELECT pgq_now()") == NOON + hours(1)
    assert failed.info.transaction_status == TransactionStatus.INERROR
    failed.rollback()
    assert one(failed, IN_REAL_TIME)


def test_a_worker_travels_too(queue: WorkerQueue, clock: Clock, handlers: Handlers, make_worker: MakeWorker) -> None:
    """Its sessions are its own. It runs the job that is ripe in travelled time, and no other."""
    ran: list[datetime] = []
    handlers.handler("k")(lambda job: ran.append(datetime.now(UTC)))
    queue.enqueue("k", delay=hours(4))
    make_worker(drain=Drain(until_empty=False)).run()
    assert ran == []
    clock.tick(hours(4))
    make_worker(drain=Drain(until_empty=False)).run()
    assert ran == [NOON + hours(4)]
    assert jobs(queue.conn) == []


def test_the_timers_of_asyncio_go_on(clock: Clock) -> None:
    """Otherwise a wait in an async application would never end."""

    async def passes() -> bool:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        return any(loop.time() > begin for _ in range(1_000_000))

    assert asyncio.run(passes())


def test_pytest_does_not_collect_the_test_kit() -> None:
    """A module of tests that imports it has its name, which begins as that of a test."""
    assert not getattr(testkit, "__test__", True)


def test_a_database_has_one_clock(conn: Connection, clock: Clock) -> None:
    """A second one is refused, because it would bring all sessions of the first to another time."""
    with pytest.raises(RuntimeError, match="travels in time already"), time_travel(conn, to="2001-01-01"):
        pytest.fail("must not be entered")
    assert one(conn, "SELECT pgq_now()") == datetime.now(UTC) == NOON


@pytest.mark.parametrize("moves", [True, False])
def test_a_clock_whose_session_was_ended_says_so(conn: Connection, moves: bool) -> None:
    """At the next move, or else at the end of the block: the database is back in real time."""
    reached = []

    def travel() -> None:
        with time_travel(conn, to=NOON) as clock:
            conn.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'pgq.testing'"
            )
            reached.append("ended")
            if moves:
                clock.tick(hours(1))
                reached.append("moved")

    with pytest.raises(RuntimeError, match="back in real time"):
        travel()
    assert reached == ["ended"]
    assert datetime.now(UTC).year < 2030
    assert one(conn, IN_REAL_TIME)


def test_time_travel_needs_no_privilege_of_the_roles(conn: Connection, clock: Clock) -> None:
    """A role that may only enqueue travels as well."""
    conn.execute("DROP ROLE IF EXISTS clerk")
    conn.execute("CREATE ROLE clerk")
    try:
        conn.execute("SELECT pgq_grant('clerk', 'producer')")
        conn.execute("SET ROLE clerk")
        conn.execute("SELECT pgq_enqueue('k')")
        conn.execute("RESET ROLE")
        assert one(conn, "SELECT enqueued_at FROM pgq_jobs") == NOON
    finally:
        conn.execute("RESET ROLE")
        conn.execute("DROP OWNED BY clerk")
        conn.execute("DROP ROLE clerk")


def test_a_database_without_the_test_kit_does_not_travel(conn: Connection) -> None:
    """The clock that pgq ships reads no setting, so a role that may claim cannot make jobs ripe."""
    conn.execute(
        "CREATE OR REPLACE FUNCTION pgq_now() RETURNS timestamptz LANGUAGE sql VOLATILE RETURN clock_timestamp()"
    )
    with pytest.raises(RuntimeError, match="testkit"), time_travel(conn, to="2001-01-01"):
        pytest.fail("must not be entered")
    assert datetime.now(UTC).year > 2001
