"""Async handlers with a transaction: their writes and the completion of their jobs commit together, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from support.database import Connect, Connection, one
from support.threads import Thread, eventually
from support.workers import MakeWorker, drain

import pgq
from pgq import AsyncJob, Drain, Handlers, Queue, Worker
from pgq.worker.loop import Loop

AsyncConnection = psycopg.AsyncConnection[Any]
Misuse = Callable[[AsyncConnection], Awaitable[object]]
# Keeps what a handler leaves open from being closed when it returns.
kept: list[Any] = []


@pytest.fixture(autouse=True)
def effect(conn: Connection) -> None:
    """A table in which handlers write."""
    conn.execute("CREATE TABLE effect (job int)")


def effects(conn: Connection) -> list[int]:
    """Return what has been written and committed."""
    return [n for (n,) in conn.execute("SELECT job FROM effect ORDER BY job").fetchall()]


def newest(conn: Connection) -> str:
    """Return the newest error of the only job that is left."""
    return str(one(conn, "SELECT errors -> 0 ->> 'error' FROM pgq_jobs"))


def test_the_writes_of_an_async_handler_commit_with_its_job(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """What comes after a savepoint that was rolled back commits, too; the result is kept."""

    @handlers.handler("k", transaction=True)
    async def work(number: int, *, job: AsyncJob, conn: AsyncConnection) -> dict[str, int]:
        assert conn.autocommit
        await conn.execute("INSERT INTO effect VALUES (%s)", [number])
        with contextlib.suppress(psycopg.errors.DivisionByZero):
            async with conn.transaction():
                await conn.execute("INSERT INTO effect VALUES (%s)", [number + 100])
                await conn.execute("SELECT 1 / 0")
        async with conn.transaction():
            await conn.execute("INSERT INTO effect VALUES (%s)", [number + 10])
        return {"number": number}

    ids = [queue.enqueue("k", {"number": n}).id for n in range(3)]
    drain(loop)
    assert effects(queue.conn) == [0, 1, 2, 10, 11, 12]
    assert [queue.result(job).value for job in ids] == [{"number": n} for n in range(3)]


@pytest.mark.happens("raises anything")
def test_the_writes_of_an_async_handler_that_fails_are_undone(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """Also when it has caught the error of a statement, and returns."""

    @handlers.handler("k", transaction=True)
    async def work(job: AsyncJob, conn: AsyncConnection) -> None:
        await conn.execute("INSERT INTO effect VALUES (1)")
        if job.args:
            raise ValueError("no")
        with pytest.raises(psycopg.errors.DivisionByZero):
            await conn.execute("SELECT 1 / 0")

    queue.enqueue_many([{"kind": "k", "args": n} for n in (0, 1)])
    drain(loop)
    assert effects(queue.conn) == []
    assert one(queue.conn, "SELECT array_agg(state) FROM pgq_jobs") == [
        "waiting",
        "waiting",
    ]


def runs(statement: str) -> Misuse:
    """Execute a statement."""

    async def misuse(conn: AsyncConnection) -> None:
        await conn.execute(statement.encode())

    return misuse


def enters(context: Callable[[AsyncConnection], Any]) -> Misuse:
    """Enter a context and do not leave it."""

    async def misuse(conn: AsyncConnection) -> None:
        entered = context(conn)
        await entered.__aenter__()
        kept.append(entered)

    return misuse


async def read_in_part(conn: AsyncConnection) -> None:
    """Leave a stream in the middle."""
    stream = conn.cursor().stream("SELECT generate_series(1, 100000)")
    kept.append(stream)
    await anext(stream)


async def query_in_task(conn: AsyncConnection) -> None:
    """Leave a task in the middle of a statement."""
    kept.append(asyncio.get_running_loop().create_task(conn.execute("SELECT pg_sleep(60)")))
    await asyncio.sleep(0.05)


BUSY = "left its connection in the middle of something"
ENDED = "ended its transaction"
MISUSES: dict[str, tuple[Misuse, str]] = {
    "COMMIT": (runs("COMMIT"), ENDED),
    "ROLLBACK": (runs("ROLLBACK"), ENDED),
    "COMMIT; BEGIN": (runs("COMMIT; BEGIN"), ENDED),
    "commit()": (
        lambda conn: conn.commit(),
        "a handler with transaction=True leaves it to the worker to commit",
    ),
    "rollback()": (
        lambda conn: conn.rollback(),
        "a handler with transaction=True raises an exception to roll back",
    ),
    "close()": (lambda conn: conn.close(), "Error"),
    "block": (enters(lambda conn: conn.transaction()), BUSY),
    "copy": (enters(lambda conn: conn.cursor().copy("COPY effect FROM STDIN")), BUSY),
    "pipeline": (enters(lambda conn: conn.pipeline()), BUSY),
    "stream": (read_in_part, BUSY),
    "task": (query_in_task, BUSY),
}


@pytest.mark.happens("ends its transaction")
@pytest.mark.happens("leaves something open")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("misuse", MISUSES)
def test_an_async_handler_that_misuses_its_connection_fails(
    queue: Queue, loop: Loop, handlers: Handlers, misuse: str
) -> None:
    """Nothing of it is done twice, and the next job gets a connection that works."""
    function, said = MISUSES[misuse]

    @handlers.handler("k", transaction=True)
    async def work(job: AsyncJob, conn: AsyncConnection) -> None:
        if job.args == 1:
            await function(conn)
        else:
            await conn.execute("INSERT INTO effect VALUES (2)")

    queue.enqueue_many([{"kind": "k", "args": n} for n in (1, 2)])
    drain(loop)
    assert effects(queue.conn) == [2]
    assert said in newest(queue.conn)
    kept.clear()


def test_a_handler_that_uses_job_and_connection_at_once(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """What the job sends waits for the statement of another task, and the statement for it."""

    @handlers.handler("k", transaction=True)
    async def work(job: AsyncJob, conn: AsyncConnection) -> None:
        def insert(numbers: range) -> list[Awaitable[object]]:
            return [conn.execute("INSERT INTO effect VALUES (%s)", [n]) for n in numbers]

        # While a step runs, saving is refused.
        await asyncio.gather(*insert(range(3)), job.step("a", asyncio.sleep, 0))
        await asyncio.gather(*insert(range(3, 5)), job.save(1), job.save(2))

    queue.enqueue("k")
    drain(loop)
    assert effects(queue.conn) == [0, 1, 2, 3, 4], newest(queue.conn)


@pytest.mark.happens("leaves a task behind")
def test_a_task_that_is_left_behind_cannot_use_the_connection(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """The next handler has the same session, and the task meets a closed connection."""
    met: list[BaseException] = []
    pids: list[int] = []
    returned = asyncio.Event()

    @handlers.handler("k", transaction=True)
    async def work(job: AsyncJob, conn: AsyncConnection) -> None:
        pids.append(conn.info.backend_pid)
        cursor = conn.cursor()

        async def left() -> None:
            await returned.wait()
            for use in (conn.execute, cursor.execute):
                try:
                    await use("INSERT INTO effect VALUES (1)")
                except psycopg.OperationalError as error:
                    met.append(error)

        kept.append(asyncio.get_running_loop().create_task(left()))

    @handlers.handler("next", transaction=True)
    async def next_(job: AsyncJob, conn: AsyncConnection) -> None:
        pids.append(conn.info.backend_pid)
        await conn.execute("INSERT INTO effect VALUES (2)")
        returned.set()
        await asyncio.sleep(0)
        await asyncio.gather(*kept)

    queue.enqueue_many([{"kind": "k"}, {"kind": "next"}])
    drain(loop)
    assert len(met) == 2
    assert effects(queue.conn) == [2]
    assert len(set(pids)) == 1
    kept.clear()


@pytest.mark.happens("changes its session")
def test_the_next_async_handler_gets_a_clean_session(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    seen: list[Any] = []
    setting = "SELECT current_setting('work_mem'), count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"

    @handlers.handler("k", transaction=True)
    async def work(job: AsyncJob, conn: AsyncConnection) -> None:
        cursor = await conn.execute(setting, [conn.info.backend_pid])
        seen.append(await cursor.fetchone())
        conn.row_factory = dict_row
        conn.prepare_threshold = 0
        conn.execute = None  # type: ignore[method-assign, assignment]
        cursor = conn.cursor()
        await cursor.execute("SET work_mem = '77kB'")
        await cursor.execute("SELECT pg_advisory_lock(1)")

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(3)])
    drain(loop)
    assert [row[0] for row in seen] == [one(queue.conn, "SHOW work_mem")] * 3
    assert (
        one(
            queue.conn,
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1",
        )
        == 0
    )


def test_prepared_statements_of_many_handlers_do_not_collide(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """Each handler has an object of its own for the same session, and the worker has one: for results it may refuse."""

    @handlers.handler("k", transaction=True)
    async def work(job: AsyncJob, conn: AsyncConnection) -> str:
        for n in range(3):
            await conn.execute(f"SELECT {job.args} + {n}".encode(), prepare=True)
        return "\0"

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(10)])
    drain(loop)
    assert one(queue.conn, "SELECT count(*) FROM pgq_jobs WHERE state <> 'done'") == 0


@pytest.mark.happens("a connection is lost")
def test_an_async_handler_whose_connection_is_cut_fails(
    queue: Queue, connect: Connect, loop: Loop, handlers: Handlers
) -> None:
    """Its job has failed, and the next one gets another connection."""
    operator = connect()

    @handlers.handler("k", transaction=True)
    async def work(job: AsyncJob, conn: AsyncConnection) -> None:
        await conn.execute("INSERT INTO effect VALUES (%s)", [job.args])
        if job.args == 1:
            await asyncio.to_thread(
                operator.execute,
                "SELECT pg_terminate_backend(%s)",
                [conn.info.backend_pid],
            )
        await conn.execute("SELECT 1")

    queue.enqueue_many([{"kind": "k", "args": n} for n in (1, 2)])
    drain(loop)
    assert effects(queue.conn) == [2]
    assert "terminating connection" in newest(queue.conn)


@pytest.mark.happens("has no connection left")
def test_async_handlers_wait_for_a_connection_that_is_free(
    queue: Queue, dsn: str, handlers: Handlers, conn: Connection
) -> None:
    """The server accepts fewer connections than handlers may run: none of them fails, and no attempt is lost."""
    conn.execute("DROP ROLE IF EXISTS narrow")
    conn.execute("CREATE ROLE narrow LOGIN CONNECTION LIMIT 5")
    conn.execute("SELECT pgq_grant('narrow', 'worker'), pgq_grant('narrow', 'producer')")
    conn.execute("GRANT INSERT ON effect TO narrow")
    attempts: list[int] = []

    @handlers.handler("k", transaction=True)
    async def work(job: AsyncJob, conn: AsyncConnection) -> None:
        attempts.append(job.attempt)
        await conn.execute("INSERT INTO effect VALUES (%s)", [job.args])

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(40)])
    worker = Worker(
        make_conninfo(dsn, user="narrow"),
        handlers,
        concurrency=20,
        drain=Drain(until_empty=True),
        poll=0.05,
    )
    worker.run()
    assert effects(conn) == list(range(40))
    assert set(attempts) == {1}
    conn.execute("DROP OWNED BY narrow; DROP ROLE narrow")


def test_an_async_job_without_any_connection_goes_back(
    queue: Queue,
    connect: Connect,
    make_worker: MakeWorker,
    handlers: Handlers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its attempt does not count, and it runs when there is a connection again."""
    from pgq.worker.async_sessions import AsyncInside  # noqa: PLC0415 - patched here

    attempts: list[int] = []
    refused: list[AsyncInside] = []
    original = AsyncInside.queue

    def refuse(self: AsyncInside) -> Any:
        if len(refused) < 2:
            refused.append(self)
            raise psycopg.OperationalError("no")
        return original(self)

    monkeypatch.setattr(AsyncInside, "queue", refuse)

    @handlers.handler("k", transaction=True)
    async def work(job: AsyncJob, conn: AsyncConnection) -> None:
        attempts.append(job.attempt)

    queue.enqueue("k")
    make_worker(concurrency=5, drain=Drain(until_empty=True), poll=0.05).run()
    assert attempts == [1]
    assert len(refused) == 2


def test_the_job_of_an_async_handler_is_held(
    queue: Queue, connect: Connect, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """Its row is locked while the handler runs, so that no rescue can take it."""
    go = asyncio.Event()

    @handlers.handler("k", transaction=True)
    async def work(job: AsyncJob, conn: AsyncConnection) -> None:
        await go.wait()

    job = queue.enqueue("k").id
    worker = make_worker(concurrency=2, drain=Drain(until_empty=True), poll=0.05)
    running = Thread(worker.run)
    held = "SELECT NOT EXISTS (SELECT FROM pgq_running WHERE id = %s FOR UPDATE SKIP LOCKED)"
    eventually(lambda: worker._executions() and one(queue.conn, held, job))
    loop = worker._event_loop.loop
    assert loop is not None
    loop.call_soon_threadsafe(go.set)
    running.result()
    with pytest.raises(pgq.Error):
        queue.retry(job)
