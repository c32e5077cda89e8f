"""Jobs that run within the transaction of a test, by the executor of a worker."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support.database import Connection, one

import pgq
from pgq import AsyncJob, Handlers, Job, Queue
from pgq.testing import time_travel
from pgq.worker import inline
from pgq.worker.inline import InlineWorker

Row = tuple[Any, ...]


@pytest.fixture
def queue(database: Connection, handlers: Handlers) -> Queue:
    """A queue in an open transaction, which has a table for effects."""
    database.execute("CREATE TABLE effect (what text)")
    return Queue(database, handlers=handlers)


@pytest.fixture
def drain(queue: Queue, handlers: Handlers) -> Callable[[], dict[str, int]]:
    """Run what is ripe in the transaction of the queue, which then is still open."""

    def drain() -> dict[str, int]:
        ends = InlineWorker(queue.conn, handlers).drain()
        assert queue.conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        return dict(ends)

    return drain


def write(conn: Connection, what: str) -> None:
    """Write an effect."""
    conn.execute("INSERT INTO effect VALUES (%s)", [what])


def effects(queue: Queue) -> list[str]:
    """Return all effects, in alphabetical order."""
    return [what for (what,) in queue.conn.execute("SELECT what FROM effect ORDER BY what")]


def found(queue: Queue, what: str = "state, attempt, result") -> list[Row]:
    """Return these columns of all jobs."""
    return queue.conn.execute(f"SELECT {what} FROM pgq_jobs ORDER BY id".encode()).fetchall()


def test_a_plain_handler_keeps_what_it_has_written_when_it_fails(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]]
) -> None:
    """As with a worker, whose handlers have a connection of their own."""

    @handlers.handler("k")
    def run(job: Job) -> int:
        write(queue.conn, job.args)
        if job.args == "bad":
            raise ValueError
        return job.attempt

    queue.enqueue("k", "bad")
    queue.enqueue("k", "good")
    assert drain() == {"retry": 1, "done": 1}
    assert effects(queue) == ["bad", "good"]
    assert found(queue) == [("waiting", 1, None), ("done", 1, 1)]


def test_a_failed_statement_fails_its_job_alone(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]]
) -> None:
    """What the handler has written before is undone, because the transaction could not go on."""

    @handlers.handler("k", max_retries=0)
    def run(job: Job) -> None:
        write(queue.conn, "k")
        queue.conn.execute("SELECT 1 / 0")

    queue.enqueue("k")
    assert drain() == {"dead": 1}
    assert effects(queue) == []


@pytest.mark.parametrize("is_async", [False, True])
def test_a_transaction_is_a_savepoint(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]], is_async: bool
) -> None:
    """It is undone when the handler fails, and only that."""

    def run(job: Job, conn: Connection) -> int:
        write(conn, job.args)
        with conn.transaction():
            write(conn, "inner")
        if job.args == "bad":
            conn.execute("SELECT 1 / 0")
        with pytest.raises(psycopg.ProgrammingError, match="leaves it to the worker to commit"):
            conn.commit()
        return 7

    async def run_async(job: AsyncJob, conn: psycopg.AsyncConnection[Any]) -> int:
        await conn.execute("INSERT INTO effect VALUES (%s)", [job.args])
        async with conn.transaction():
            await conn.execute("INSERT INTO effect VALUES ('inner')")
        if job.args == "bad":
            await conn.execute("SELECT 1 / 0")
        with pytest.raises(psycopg.ProgrammingError, match="leaves it to the worker to commit"):
            await conn.commit()
        return 7

    function: Any = run_async if is_async else run
    handlers.handler("k", transaction=True)(function)
    for args in ("good", "bad"):
        queue.enqueue("k", args)
    assert drain() == {"done": 1, "retry": 1}
    assert effects(queue) == ["good", "inner"]
    assert found(queue) == [("done", 1, 7), ("waiting", 1, None)]


@pytest.mark.parametrize("transaction", [False, True])
def test_a_batch_handler_gets_several_jobs(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]], transaction: bool
) -> None:
    """In a transaction each has a savepoint of its own."""

    def run(jobs: list[Job]) -> dict[int, Any]:
        return {job.id: ValueError() if job.args == 1 else len(jobs) for job in jobs}

    def run_one(job: Job, conn: Connection) -> int:
        write(conn, str(job.args))
        return {0: 3, 2: 3}[job.args]

    function: Any = run_one if transaction else run
    handlers.handler("k", batch=5, transaction=transaction)(function)
    for number in range(3):
        queue.enqueue("k", number)
    assert drain() == {"done": 2, "retry": 1}
    assert found(queue) == [("done", 1, 3), ("waiting", 1, None), ("done", 1, 3)]
    assert effects(queue) == (["0", "2"] if transaction else [])


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_step_has_done_stays(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]], transaction: bool, is_async: bool
) -> None:
    """The next attempt does not run it again, and with a transaction its writes survive the failure."""
    ran: list[int] = []

    def note(attempt: int) -> int:
        ran.append(attempt)
        return attempt

    def run(job: Job, conn: Connection | None = None) -> Any:
        if conn is not None:
            write(conn, f"{job.attempt}")
        value = job.step("one", note, job.attempt)
        if job.attempt == 1:
            raise pgq.Retry(timedelta(0))
        return value

    async def run_async(job: AsyncJob, conn: psycopg.AsyncConnection[Any] | None = None) -> Any:
        if conn is not None:
            await conn.execute("INSERT INTO effect VALUES (%s)", [f"{job.attempt}"])
        value = await job.step("one", note, job.attempt)
        if job.attempt == 1:
            raise pgq.Retry(timedelta(0))
        return value

    function: Any = run_async if is_async else run
    handlers.handler("k", transaction=transaction)(function)
    queue.enqueue("k")
    assert drain() == {"retry": 1, "done": 1}
    assert (ran, found(queue)) == ([1], [("done", 2, 1)])
    assert effects(queue) == (["1", "2"] if transaction else [])


def test_the_ends_of_an_attempt_are_those_of_a_worker(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]]
) -> None:
    """A kind without a handler is declined."""

    @handlers.handler("k", max_retries=0)
    def run(job: Job) -> None:
        error = {"snoozed": pgq.Snooze(delay=timedelta(hours=1)), "cancelled": pgq.Cancel("no"), "dead": OSError()}
        raise error[job.args]

    for args in ("snoozed", "cancelled", "dead"):
        queue.enqueue("k", args)
    queue.enqueue("unknown")
    assert drain() == {"snoozed": 1, "cancelled": 1, "dead": 1, "declined": 1}
    assert drain() == {}


@pytest.mark.parametrize("is_async", [False, True])
def test_a_timeout_counts_while_the_clock_stands(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]], is_async: bool
) -> None:
    """It interrupts a handler in real time, and the alarm of the process is as it was before."""

    def run(job: Job) -> None:
        time.sleep(60)

    async def run_async(job: AsyncJob) -> None:
        await asyncio.sleep(60)

    function: Any = run_async if is_async else run
    handlers.handler("k", timeout=0.05)(function)
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        with time_travel(queue.conn, to="2030-01-01"):
            queue.enqueue("k")
            assert drain() == {"retry": 1}
        assert signal.getsignal(signal.SIGALRM) == signal.SIG_IGN
        assert 50 < signal.getitimer(signal.ITIMER_REAL)[0] < 100
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert "TimedOut" in str(found(queue, "errors"))


def test_a_job_completes_itself_on_the_connection_of_the_test(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]]
) -> None:
    """The worker then records nothing."""
    handlers.handler("k")(lambda job: job.complete(queue.conn, 8))
    queue.enqueue("k")
    assert drain() == {"done": 1}
    assert found(queue) == [("done", 1, 8)]


def test_the_connection_is_left_as_it_was(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]]
) -> None:
    """Its settings, and who hears its notices; what a handler has kept of it is closed."""
    kept: list[Connection] = []
    heard: list[str | None] = []
    queue.conn.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    handlers.handler("k", transaction=True, timeout=9)(lambda job, conn: kept.append(conn))
    names = ("lock_timeout", "idle_in_transaction_session_timeout")
    before = [one(queue.conn, f"SELECT current_setting('{name}')") for name in names]
    queue.enqueue("k")
    assert drain() == {"done": 1}
    assert [one(queue.conn, f"SELECT current_setting('{name}')") for name in names] == before
    queue.conn.execute("DO $$BEGIN RAISE NOTICE 'here'; END$$")
    assert heard[-1:] == ["here"]
    assert kept[0].closed


def test_a_job_that_is_ripe_again_for_ever_ends_the_drain(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 10,000 jobs, here after 3."""
    monkeypatch.setattr(inline, "MOST", 3)

    @handlers.handler("k")
    def run(job: Job) -> None:
        raise pgq.Snooze(delay=timedelta(0))

    queue.enqueue("k")
    with pytest.raises(RuntimeError, match="3 jobs have run, and one of kind k was ripe again"):
        drain()


def test_ctrl_c_ends_the_tests_and_not_the_job(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]]
) -> None:
    """It is no failure of a handler."""

    @handlers.handler("k")
    def run(job: Job) -> None:
        raise KeyboardInterrupt

    queue.enqueue("k")
    with pytest.raises(KeyboardInterrupt):
        drain()


def test_a_handler_that_ends_the_transaction_is_named(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]]
) -> None:
    """So is a test that is in none."""

    @handlers.handler("k")
    def run(job: Job) -> None:
        queue.conn.execute("ROLLBACK")

    queue.enqueue("k")
    with pytest.raises(RuntimeError, match="the handler of k has ended the transaction"):
        drain()
    with pytest.raises(RuntimeError, match="only in a transaction"):
        drain()


def test_a_handler_that_leaves_a_block_open_has_failed(
    queue: Queue, handlers: Handlers, drain: Callable[[], dict[str, int]]
) -> None:
    """Its writes are undone, and the test goes on."""
    blocks: list[Any] = []

    @handlers.handler("k", transaction=True)
    def run(job: Job, conn: Connection) -> None:
        write(conn, "k")
        blocks.append(conn.transaction())
        blocks[0].__enter__()

    queue.enqueue("k")
    assert drain() == {"retry": 1}
    assert effects(queue) == []
