"""Async handlers that fail, or do harm to their event loop: what becomes of their jobs and of the jobs beside them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from support.database import Connect, Connection, expire, one
from support.threads import Thread, eventually
from support.workers import MakeWorker, drain, start

import pgq
from pgq import AsyncJob, Drain, Handlers, Queue, Worker, WorkerQueue
from pgq.worker import async_call, event_loop, presence
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing

LONG = 60


def rows(conn: Connection) -> list[tuple[Any, ...]]:
    """Return kind, state, attempt and the first line of the newest error of all jobs."""
    query = "SELECT kind, state, attempt, split_part(errors -> 0 ->> 'error', E'\\n', 1) FROM pgq_jobs ORDER BY id"
    return conn.execute(query.encode()).fetchall()


def raising(error: BaseException) -> Callable[[AsyncJob], Awaitable[None]]:
    """Return a handler that raises an exception, after another task has run."""

    async def work(job: AsyncJob) -> None:
        await asyncio.sleep(0)
        raise error

    return work


@pytest.mark.happens("raises anything")
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no"), "ValueError: no"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError"),
        (MemoryError(), "MemoryError"),
        (GeneratorExit(), "GeneratorExit"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_an_async_handler_raises_fails_its_own_job(
    queue: Queue, loop: Loop, handlers: Handlers, error: BaseException, said: str
) -> None:
    """The event loop goes on, and so do the jobs after it."""
    ran = []

    @handlers.handler("next")
    async def note(job: AsyncJob) -> None:
        ran.append(job.args)

    handlers.handler("k")(raising(error))
    queue.enqueue_many([{"kind": "k"}, {"kind": "next", "args": 1}])
    drain(loop)
    assert rows(queue.conn) == [("k", "waiting", 1, said)]
    assert ran == [1]


def test_an_async_handler_whose_task_is_cancelled_before_it_begins_has_failed(
    queue: Queue, loop: Loop, handlers: Handlers
) -> None:
    """Another one may cancel all tasks of the event loop, and another job have come in just then."""

    def cancelled(of: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        of.set_task_factory(None)
        task = asyncio.Task(work, loop=of, **options)
        task.cancel()
        return task

    @handlers.handler("first")
    async def first(job: AsyncJob) -> None:
        asyncio.get_running_loop().set_task_factory(cancelled)

    @handlers.handler("k")
    async def never(job: AsyncJob) -> None:
        raise AssertionError

    queue.enqueue_many([{"kind": "first"}, {"kind": "k"}])
    drain(loop)
    assert rows(queue.conn) == [("k", "waiting", 1, "asyncio.exceptions.CancelledError")]


@pytest.mark.happens("raises `Snooze`, `Cancel`, `Retry`")
def test_control_exceptions_of_async_handlers(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """They do what they do in plain handlers; a result is kept."""
    for kind, error in {
        "snooze": pgq.Snooze(delay=timedelta(hours=1)),
        "cancel": pgq.Cancel("no"),
        "retry": pgq.Retry(timedelta(hours=1)),
    }.items():
        handlers.handler(kind)(raising(error))
        queue.enqueue(kind)

    @handlers.handler("result")
    async def result(job: AsyncJob) -> dict[str, int]:
        return {"a": job.attempt}

    kept = queue.enqueue("result").id
    drain(loop)
    found = [(kind, state, attempt) for kind, state, attempt, _ in rows(queue.conn)]
    assert found[:3] == [
        ("snooze", "waiting", 0),
        ("cancel", "cancelled", 1),
        ("retry", "waiting", 1),
    ]
    assert queue.result(kept).value == {"a": 1}


@pytest.mark.happens("returns what cannot be stored")
def test_an_async_handler_that_returns_what_cannot_be_stored(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    @handlers.handler("k")
    async def work(job: AsyncJob) -> object:
        return object()

    job = queue.enqueue("k").id
    drain(loop)
    assert (queue.result(job).state, queue.result(job).payload) == ("done", None)
    assert "the result was not stored" in (queue.result(job).error or "")


@pytest.fixture(params=[False, True], ids=["plain", "transaction"])
def transaction(request: pytest.FixtureRequest) -> bool:
    """Whether the handlers of the test have a transaction."""
    return bool(request.param)


@pytest.mark.happens("takes longer than its `timeout`")
def test_a_timeout_cancels_an_async_handler(queue: Queue, loop: Loop, handlers: Handlers, transaction: bool) -> None:
    """The handler sees why; what is kept with the job is TimedOut, and the place where the handler has waited."""
    seen: list[Any] = []
    queue.conn.execute("CREATE TABLE effect (n int)")

    @handlers.handler("k", timeout=0.05, transaction=transaction)
    async def work(job: AsyncJob, *conn: Any) -> None:
        for one_ in conn:
            await one_.execute("INSERT INTO effect VALUES (1)")
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError as error:
            seen.append(error.args[0])
            raise

    queue.enqueue("k")
    drain(loop)
    ((_, state, attempt, said),) = rows(queue.conn)
    assert (state, attempt, said) == (
        "waiting",
        1,
        "pgq.TimedOut: the handler took longer than its timeout",
    )
    assert "in work" in one(queue.conn, "SELECT errors -> 0 ->> 'error' FROM pgq_jobs")
    assert [type(error) for error in seen] == [pgq.TimedOut]
    assert one(queue.conn, "SELECT count(*) FROM effect") == 0


@pytest.mark.happens("takes longer than its `timeout`")
def test_an_async_handler_that_catches_a_timeout_is_cancelled_again(
    queue: Queue, loop: Loop, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that returns all the same has done its job."""
    monkeypatch.setattr(async_call, "AGAIN", 0.05)
    seen = []

    @handlers.handler("k", timeout=0.05)
    async def work(job: AsyncJob) -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError as error:
                seen.append(type(error.args[0]))

    job = queue.enqueue("k").id
    drain(loop)
    assert seen == [pgq.TimedOut, pgq.TimedOut]
    assert queue.result(job).state == "gone"


@pytest.mark.happens("takes longer than its `timeout`")
def test_a_timeout_ends_a_statement_of_an_async_handler(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """The next job gets a connection that works."""

    @handlers.handler("k", timeout=0.1, transaction=True)
    async def work(job: AsyncJob, conn: Any) -> None:
        await conn.execute("SELECT pg_sleep(%s)", [LONG if job.args else 0])

    first, second = queue.enqueue_many([{"kind": "k", "args": n} for n in (1, 0)])
    drain(loop)
    assert [(kind, state) for kind, state, _, _ in rows(queue.conn)] == [("k", "waiting")]
    assert "TimedOut" in (queue.result(first.id).error or "")
    assert queue.result(second.id).state == "gone"


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker ask for cancels more often than once a second."""
    monkeypatch.setattr(presence, "LONGEST_TICK", 0.1)
    monkeypatch.setattr(presence, "HELD_FOR", 0.0)


@pytest.mark.happens("is cancelled by an operator")
@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize("interrupt", [True, False])
def test_an_operator_cancels_an_async_handler(
    queue: Queue,
    connect: Connect,
    make_worker: MakeWorker,
    handlers: Handlers,
    interrupt: bool,
    transaction: bool,
) -> None:
    """It is cancelled, or asks job.cancelled."""
    begun = threading.Event()
    seen = []

    @handlers.handler("k", interrupt_on_cancel=interrupt, transaction=transaction)
    async def work(job: AsyncJob, *conn: Any) -> None:
        begun.set()
        try:
            while not job.cancelled or interrupt:
                await asyncio.sleep(0.01)
        except asyncio.CancelledError as error:
            seen.append(type(error.args[0]))
            raise
        raise ValueError("given up")

    job = queue.enqueue("k").id
    worker = make_worker(concurrency=3, drain=Drain(until_empty=True), poll=0.05)
    running = Thread(worker.run)
    assert begun.wait(30)
    assert Queue(connect()).cancel(job) == "requested"
    running.result()
    ((_, state, _, said),) = rows(queue.conn)
    assert state == "cancelled"
    assert seen == ([pgq.Cancelled] if interrupt else [])
    assert said == ("pgq.Cancelled: an operator has cancelled the job" if interrupt else "ValueError: given up")


@pytest.mark.happens("a worker has lost a lease and does not know it")
def test_an_async_handler_that_has_lost_its_lease_records_nothing(
    queue: WorkerQueue, make_worker: MakeWorker, handlers: Handlers, connect: Connect
) -> None:
    """Another claim has the job meanwhile, and ends it."""
    other, ended = WorkerQueue(connect()), []

    @handlers.handler("k")
    async def work(job: AsyncJob) -> int:
        if job.attempt == 1:
            expire(other.conn)
            again = await asyncio.to_thread(eventually, other.claim)
            with pytest.raises(pgq.LeaseLost):
                await job.extend()
            other.complete(again[0], 2)
            ended.append(job.id)
        return 1

    job = queue.enqueue("k").id
    make_worker(drain=Drain(until_empty=True), poll=0.05).run()
    assert ended == [job]
    assert queue.result(job).value == 2


@pytest.mark.happens("blocks the event loop")
def test_a_worker_says_which_handler_blocks_its_event_loop(
    queue: Queue,
    make_worker: MakeWorker,
    handlers: Handlers,
    running: list[Worker],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing interrupts it, its lease is extended within its timeout, and in the end the worker is not well."""
    monkeypatch.setattr(event_loop, "BLOCKED_AFTER", 0.1)
    go = threading.Event()

    @handlers.handler("k")
    async def block_all(job: AsyncJob) -> None:
        go.wait(LONG)

    @handlers.handler("other")
    async def other(job: AsyncJob) -> None:
        pass

    job = queue.enqueue("k").id
    worker = make_worker(concurrency=5, timing=Timing(unwell_after=0.5))
    start(worker, running)
    try:
        said = eventually(lambda: [line for line in caplog.messages if "kept all other async handlers" in line])
        assert f"job {job} k has kept all other" in said[0]
        assert "block_all" in "".join(said) or "wait" in said[0]
        eventually(lambda: not worker.is_well(), "the worker is not well")
    finally:
        go.set()
    queue.enqueue("other")
    eventually(lambda: not rows(queue.conn))
    eventually(worker.is_well)


def stop_loop(_: AsyncJob) -> None:
    """Stop the event loop."""
    asyncio.get_running_loop().stop()


def exit_in_task(_: AsyncJob) -> None:
    """Let a task raise SystemExit, which ends a run of the event loop."""

    async def leave() -> None:
        raise SystemExit(3)

    kept.append(asyncio.get_running_loop().create_task(leave()))


# Tasks are kept by nobody else.
kept: list[Any] = []


@pytest.mark.happens("ends the event loop")
@pytest.mark.parametrize("end", [stop_loop, exit_in_task])
def test_an_event_loop_that_is_stopped_goes_on(
    queue: Queue,
    make_worker: MakeWorker,
    handlers: Handlers,
    caplog: pytest.LogCaptureFixture,
    end: Callable[[AsyncJob], None],
) -> None:
    """All handlers that run return as if nothing had happened."""
    ran = []

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        if job.args == 1:
            end(job)
        await asyncio.sleep(0.05)
        ran.append(job.args)

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(3)])
    make_worker(concurrency=3, drain=Drain(until_empty=True), poll=0.05).run()
    assert sorted(ran) == [0, 1, 2]
    assert any("an async handler has stopped the event loop" in line for line in caplog.messages)
    kept.clear()


@pytest.mark.happens("ends the event loop")
def test_the_jobs_of_an_event_loop_that_was_closed_have_failed(
    queue: Queue,
    make_worker: MakeWorker,
    handlers: Handlers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another event loop begins, and runs the jobs after them."""
    died = threading.Event()

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        await asyncio.sleep(LONG)

    @handlers.handler("last")
    async def last(job: AsyncJob) -> None:
        pass

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(2)])
    worker = make_worker(concurrency=3, drain=Drain(until_empty=False), poll=0.05)
    running = Thread(worker.run)
    eventually(lambda: len(worker._executions()) == 2)
    loop = worker._event_loop.loop
    assert loop is not None
    run_forever = loop.run_forever

    def close_once() -> None:
        # As a handler can that stops the loop, and closes it in a thread before it goes on.
        if not died.is_set():
            loop.close()
            died.set()
        else:
            run_forever()

    monkeypatch.setattr(loop, "run_forever", close_once)
    queue.enqueue("last")
    loop.call_soon_threadsafe(loop.stop)
    assert died.wait(30)
    running.result()
    said = "pgq.Error: the event loop has ended, which an async handler must not close"
    assert [(kind, state, error) for kind, state, _, error in rows(queue.conn)] == [("k", "waiting", said)] * 2


@pytest.mark.happens("leaves a task behind")
def test_a_task_that_an_async_handler_leaves_behind_runs_on(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """Its job is done. The task can make no calls of the job, and is cancelled when the worker stops."""
    seen: list[Any] = []
    returned = asyncio.Event()

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        async def left() -> None:
            await returned.wait()
            try:
                await job.save(1)
            except RuntimeError as error:
                seen.append(str(error))
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        kept.append(asyncio.get_running_loop().create_task(left()))

    @handlers.handler("next")
    async def next_(job: AsyncJob) -> None:
        returned.set()
        await asyncio.sleep(0.05)

    queue.enqueue_many([{"kind": "k"}, {"kind": "next"}])
    make_worker(drain=Drain(until_empty=True), poll=0.05).run()
    assert not rows(queue.conn)
    assert seen == [
        "a job can make this call only while its handler runs in a worker",
        "cancelled",
    ]
    kept.clear()


def test_a_task_that_will_not_end_does_not_keep_a_worker_from_stopping(
    queue: Queue,
    make_worker: MakeWorker,
    handlers: Handlers,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_loop, "LEFT_WITHIN", 0.1)
    caplog.set_level(logging.CRITICAL, "asyncio")

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        async def left() -> None:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(LONG)

        kept.append(asyncio.get_running_loop().create_task(left()))

    queue.enqueue("k")
    make_worker(drain=Drain(until_empty=True), poll=0.05).run()
    assert not rows(queue.conn)
