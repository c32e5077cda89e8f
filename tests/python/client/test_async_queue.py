"""AsyncQueue: the calls of Queue in async code. Both are made from one source, so most tests are those of Queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support.database import Connection, jobs, one
from support.threads import eventually

import pgq
from pgq import AsyncQueue, Enqueued, Result, WorkerQueue, waiting_async
from pgq.calls import Calls

LONG = 60.0
# Sessions that have declared that they wait, have looked once more, and are idle.
WAITERS = (
    "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' "
    "AND classid = 'pgq_ended'::regclass AND mode = 'ShareLock' AND objid <> 0 "
    "AND state = 'idle' AND query ~ 'pgq_result'"
)
HELD = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 'pgq_ended'::regclass"


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop of this test."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def aconn(runner: asyncio.Runner, dsn: str) -> Iterator[psycopg.AsyncConnection[Any]]:
    """An async connection to the database of this test, not in autocommit mode."""
    opened = runner.run(psycopg.AsyncConnection.connect(dsn))
    yield opened
    runner.run(opened.close())


@pytest.fixture
def producer(conn: Connection) -> Iterator[str]:
    """A role that may log in."""
    conn.execute("CREATE ROLE async_producer LOGIN")
    yield "async_producer"
    conn.execute("DROP OWNED BY async_producer; DROP ROLE async_producer")


def until(condition: Callable[[], Any]) -> Any:
    """Return a coroutine that waits for a condition in a thread, so that the event loop goes on."""
    return asyncio.to_thread(eventually, condition)


def test_every_call_works_in_async_code(
    runner: asyncio.Runner, aconn: psycopg.AsyncConnection[Any], queue: WorkerQueue, producer: str
) -> None:
    called: set[str] = set()

    async def life() -> None:
        await aconn.set_autocommit(True)
        other = AsyncQueue(aconn, schema="public")

        async def call(name: str, *args: Any, **options: Any) -> Any:
            called.add(name)
            return await getattr(other, name)(*args, **options)

        assert await call("version") == pgq.version.driver_version()
        first = await call("enqueue", "k", {"n": 1}, delay=timedelta(hours=1), dedup_key="key", max_retries=0)
        assert first == Enqueued(1, True)
        assert await call("enqueue_many", [{"kind": "k", "dedup_key": "key"}, {"kind": "l"}]) == [(1, False), (3, True)]
        batch = await call("enqueue_batch", "sum", None, [{"kind": "part"}])
        assert await call("batch_progress", batch.id) == pgq.BatchProgress(1, 0, 0, [])
        (job,) = (job for job in queue.claim(max_jobs=9) if job.kind == "part")
        assert len(await call("add_to_batch", job, [{"kind": "part", "args": 2}])) == 1
        assert await call("result", first.id) == Result(first.id, "waiting", None, None, None)
        assert [found.state for found in await call("results", [job.id, first.id])] == ["running", "waiting"]
        assert (await call("await_end", first.id)).endswith(str(first.id))
        assert await call("signal", first.id, "approved", {"by": "ann"}) is True
        assert await call("signal_key", "k", "key", "paid") == first.id
        assert (await call("update", first.id, args=None, priority=3)).tzinfo is not None
        assert await call("cancel", first.id) == "cancelled"
        with pytest.raises(pgq.JobFailed, match="is cancelled"):
            await call("wait", first.id)
        assert [found.state for found in await call("wait_many", [first.id, job.id], timeout=0)] == [
            "cancelled", "running"
        ]  # fmt: skip
        assert await call("retry", first.id) == "retry"
        assert await call("purge", outcome="dead") == 0
        assert await call("purge_jobs", [first.id]) == 0
        assert (await call("configure", "q", {"keep_done": timedelta(days=1)}))["keep_done"] == "24:00:00"
        assert await call("pause", "q") is None
        assert await call("resume", "q") is True
        assert (await call("schedule", "daily", "0 7 * * *", "report")).minute == 0
        assert await call("pause_schedule", "daily") is True
        assert (await call("resume_schedule", "daily")).minute == 0
        assert await call("run_schedule", "daily") > first.id
        assert await call("unschedule", "daily") is True
        assert await call("grant", producer, "producer", ["q"]) is None
        assert await call("revoke", producer, "producer", ["q"]) is None

    runner.run(life())
    assert called == {name for name in vars(Calls) if not name.startswith("_")} | {"result", "wait", "wait_many"}


def test_a_call_belongs_to_the_transaction_of_the_connection(
    runner: asyncio.Runner, aconn: psycopg.AsyncConnection[Any], conn: Connection
) -> None:
    """Errors are those of pgq, by SQLSTATE, and one undoes the statement that it is in."""
    queue = AsyncQueue(aconn)

    async def enqueue_two() -> None:
        async with aconn.transaction():
            await queue.enqueue("l")
            await queue.enqueue("k", on_duplicate="error")

    async def life() -> Enqueued:
        await queue.enqueue("k", "rolled back")
        await aconn.rollback()
        async with aconn.transaction():
            kept = await queue.enqueue("k")
            with pytest.raises(pgq.DuplicateJob) as caught:
                await enqueue_two()
            assert caught.value.sqlstate == "PGQ04"
            assert jobs(conn) == []
        return kept

    kept = runner.run(life())
    assert jobs(conn) == [(kept.id, "waiting", 0)]


def test_a_missing_privilege_is_named(runner: asyncio.Runner, dsn: str, queue: WorkerQueue, producer: str) -> None:
    queue.grant(producer, "producer")

    async def ask() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, user=producer) as other:
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
                await AsyncQueue(other).cancel(1)
            assert f"SELECT pgq_grant('{producer}', 'admin')" in caught.value.__notes__[0]

    runner.run(ask())


def test_tasks_take_turns_on_one_connection(
    runner: asyncio.Runner, aconn: psycopg.AsyncConnection[Any], conn: Connection
) -> None:
    queue = AsyncQueue(aconn)

    async def enqueue() -> None:
        await asyncio.gather(*(queue.enqueue("k", n) for n in range(200)))
        await aconn.commit()

    runner.run(enqueue())
    assert one(conn, "SELECT count(DISTINCT args) FROM pgq_waiting") == 200


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_wait_is_notified_and_lets_other_tasks_run(
    runner: asyncio.Runner,
    aconn: psycopg.AsyncConnection[Any],
    conn: Connection,
    queue: WorkerQueue,
    monkeypatch: pytest.MonkeyPatch,
    autocommit: bool,
) -> None:
    """Only a notification can end the wait in time. The connection is as before afterwards."""
    monkeypatch.setattr(waiting_async, "LOOK_EVERY", LONG)
    job = queue.enqueue("k")

    async def life() -> Result:
        await aconn.set_autocommit(autocommit)
        waits = asyncio.create_task(AsyncQueue(aconn).wait(job.id))
        await until(lambda: one(conn, WAITERS) == 1)
        (claimed,) = queue.claim()
        queue.complete(claimed, {"a": [1, None]})
        result = await asyncio.wait_for(waits, 20)
        assert aconn.autocommit is autocommit
        assert (await (await aconn.execute("SELECT count(*) FROM pg_listening_channels()")).fetchone()) == (0,)
        return result

    assert runner.run(life()).value == {"a": [1, None]}
    assert one(conn, HELD) == 0


def test_a_wait_that_is_cancelled_leaves_nothing_behind(
    runner: asyncio.Runner, aconn: psycopg.AsyncConnection[Any], conn: Connection, queue: WorkerQueue
) -> None:
    """The next call of the connection works."""
    job = queue.enqueue("k")

    async def life() -> None:
        other = AsyncQueue(aconn)
        waits = asyncio.create_task(other.wait(job.id))
        await until(lambda: one(conn, WAITERS) == 1)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert one(conn, HELD) == 0
        assert aconn.autocommit is False
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await other.wait_many([job.id])
        assert (await (await aconn.execute("SELECT count(*) FROM pg_listening_channels()")).fetchone()) == (0,)

    runner.run(life())
    assert one(conn, HELD) == 0


def test_behind_a_pooler_a_wait_asks(
    runner: asyncio.Runner,
    aconn: psycopg.AsyncConnection[Any],
    conn: Connection,
    queue: WorkerQueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The session of the server is not that of the connection, so it is told nothing; other tasks run meanwhile."""

    async def no(conn: psycopg.AsyncConnection[Any]) -> bool:
        return False

    monkeypatch.setattr(waiting_async, "_has_own_session", no)
    job = queue.enqueue("k")

    async def complete() -> None:
        (claimed,) = queue.claim()
        queue.complete(claimed, 7)

    async def life() -> Result:
        result, _ = await asyncio.gather(AsyncQueue(aconn).wait(job.id, 20), complete())
        assert one(conn, HELD) == 0
        return result

    assert runner.run(life()).value == 7


def test_a_bad_wait_is_refused(runner: asyncio.Runner, aconn: psycopg.AsyncConnection[Any], queue: WorkerQueue) -> None:
    job = queue.enqueue("k")

    async def life() -> None:
        other = AsyncQueue(aconn)
        with pytest.raises(pgq.NotEnded, match=rf"^job {job.id} is still waiting$"):
            await other.wait(job.id, 0.05)
        with pytest.raises(ValueError, match=r"timeout .* is negative"):
            await other.wait(job.id, -1)
        await other.enqueue("l")
        with pytest.raises(ValueError, match="a transaction is open"):
            await other.wait(job.id)

    runner.run(life())


def test_a_connection_that_is_lost_ends_the_wait(
    runner: asyncio.Runner, aconn: psycopg.AsyncConnection[Any], conn: Connection, queue: WorkerQueue
) -> None:
    job = queue.enqueue("k")

    async def life() -> None:
        waits = asyncio.create_task(AsyncQueue(aconn).wait(job.id))
        await until(lambda: one(conn, WAITERS) == 1)
        conn.execute("SELECT pg_terminate_backend(%s)", [aconn.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(waits, 20)

    runner.run(life())
