"""Async handlers: how they are called, what their jobs can do, and how many run at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from support.database import Connection, jobs, one
from support.threads import Thread, eventually
from support.workers import MakeWorker, drain, start

from pgq import AsyncJob, Drain, Handlers, Job, NewJob, Queue, Worker, WorkerQueue
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing

LOCALE: ContextVar[str] = ContextVar("locale", default="none")


@pytest.fixture(params=[False, True], ids=["plain", "transaction"])
def transaction(request: pytest.FixtureRequest) -> bool:
    """Whether the handlers of the test have a transaction."""
    return bool(request.param)


def ripen(conn: Connection) -> None:
    """Make all waiting jobs ripe."""
    conn.execute("UPDATE pgq_waiting SET ripe_at = now()")


def test_many_async_handlers_run_beside_each_other_in_few_threads(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """A hundred wait for each other, and a hundred and first until one has ended."""
    most = [0]
    running: set[int] = set()
    all_run, threads = asyncio.Event(), []

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        running.add(job.id)
        most[0] = max(most[0], len(running))
        if len(running) == 100:
            threads.append(threading.active_count())
            all_run.set()
        await all_run.wait()
        await asyncio.sleep(0)
        running.discard(job.id)

    before = threading.active_count()
    queue.enqueue_many([{"kind": "k", "args": n} for n in range(250)])
    worker = make_worker(concurrency=100, drain=Drain(until_empty=True), poll=0.05)
    worker.run()
    assert jobs(queue.conn) == []
    assert most == [100]
    assert len(worker.loops) == 1
    # Presence, ticker, and the event loop; a wake-up of another test may end meanwhile.
    assert threads[0] - before <= 4


def test_a_worker_with_plain_handlers_runs_one_job_of_any_sort_in_each_thread(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """Async handlers share the event loop, and there is one less thread for plain ones while one runs."""
    running: list[int] = []
    most, loops = [0], set()
    lock = threading.Lock()

    def note(change: int) -> None:
        with lock:
            running.append(1) if change > 0 else running.pop()
            most[0] = max(most[0], len(running))

    @handlers.handler("async")
    async def work(job: AsyncJob) -> None:
        note(1)
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0.005)
        note(-1)

    @handlers.handler("plain")
    def plain(job: Job) -> None:
        note(1)
        note(-1)

    queue.enqueue_many([{"kind": ("async", "plain")[n % 2], "args": n} for n in range(100)])
    worker = make_worker(concurrency=3, drain=Drain(until_empty=True), poll=0.05)
    worker.run()
    assert jobs(queue.conn) == []
    assert len(worker.loops) == 3
    assert len(loops) == 1
    assert most[0] <= 3


def test_jobs_that_may_not_begin_go_back(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """Another worker can have them, and no attempt is lost; what has ended is recorded meanwhile."""
    go = asyncio.Event()
    quick = 6

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        if job.args >= quick:
            await go.wait()

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(12)])
    worker = make_worker(concurrency=3, timing=Timing(keep_unstarted=0.1))
    running.append(worker)
    thread = Thread(worker.run)
    eventually(lambda: sorted(state for _, state, _ in jobs(queue.conn)) == ["running"] * 3 + ["waiting"] * 3)
    assert {attempt for _, state, attempt in jobs(queue.conn) if state == "waiting"} == {0}
    loop = worker._event_loop.loop
    assert loop is not None
    loop.call_soon_threadsafe(go.set)
    eventually(lambda: jobs(queue.conn) == [])
    worker.stop()
    thread.result()


def test_a_sleeping_worker_records_what_ends_at_once(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """It also begins jobs that come while others run."""
    go, begun = asyncio.Event(), []

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        begun.append(job.args)
        await go.wait()

    worker = make_worker(concurrency=5)
    start(worker, running)
    for n in range(3):
        queue.enqueue("k", n)
        eventually(partial(begun.__contains__, n))
    loop = worker._event_loop.loop
    assert loop is not None
    loop.call_soon_threadsafe(go.set)
    eventually(lambda: jobs(queue.conn) == [])


def test_a_stop_waits_for_async_handlers(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """What they return is recorded; jobs that have not begun go back."""
    go, begun = asyncio.Event(), threading.Semaphore(0)

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        begun.release()
        await go.wait()

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(5)])
    worker = make_worker(concurrency=3)
    thread = Thread(worker.run)
    for _ in range(3):
        assert begun.acquire(timeout=30)
    worker.stop()
    loop = worker._event_loop.loop
    assert loop is not None
    eventually(lambda: sorted(state for _, state, _ in jobs(queue.conn)) == ["running"] * 3 + ["waiting"] * 2)
    loop.call_soon_threadsafe(go.set)
    thread.result()
    assert [(state, attempt) for _, state, attempt in jobs(queue.conn)] == [("waiting", 0)] * 2


def test_a_suspect_runs_while_no_other_async_handler_runs(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """The loop waits for those that run before, and claims no more until it has ended."""
    beside: list[int] = []
    worker = make_worker(concurrency=4, drain=Drain(until_empty=True), poll=0.05)

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        if job.suspect:
            beside.append(len(worker._executions()))
        await asyncio.sleep(0.01)

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(20)])
    queue.conn.execute("UPDATE pgq_waiting SET losses = -1 WHERE id % 5 = 0")
    worker.run()
    assert beside == [1, 1, 1, 1]


def test_a_worker_ends_after_a_number_of_async_jobs(queue: Queue, make_worker: MakeWorker, handlers: Handlers) -> None:
    ran = []

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        ran.append(job.args)
        await asyncio.sleep(0.01)

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(10)])
    make_worker(concurrency=4, max_jobs=6).run()
    assert len(ran) == 6
    assert [(state, attempt) for _, state, attempt in jobs(queue.conn)] == [("waiting", 0)] * 4


def test_an_async_job_has_the_values_of_a_job(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    seen: list[Any] = []

    @handlers.handler("k")
    async def work(to: str, *, job: AsyncJob) -> None:
        seen.append(
            (
                to,
                job.args,
                job.queue,
                job.kind,
                job.attempt,
                job.priority,
                job.cancelled,
                job.waited is not None,
            )
        )
        job.args["to"] = None
        assert job == job._job
        assert repr(job).startswith("AsyncJob(id=1, token=")

    queue.enqueue("k", {"to": "ann"}, priority=7)
    drain(loop)
    assert seen == [("ann", {"to": None}, "default", "k", 1, 7, False, True)]
    assert jobs(queue.conn) == []


def test_what_an_async_job_can_do(queue: Queue, loop: Loop, handlers: Handlers, transaction: bool) -> None:
    """Steps, state, progress, jobs and leases, over several attempts."""
    ran: list[Any] = []

    @handlers.handler("child")
    def child(job: Job) -> int:
        return 7

    @handlers.handler("k", transaction=transaction)
    async def work(job: AsyncJob, *conn: Any) -> None:
        async def first(n: int, *, more: int) -> tuple[int, ...]:
            ran.append(job.step_key)
            await asyncio.sleep(0)
            return (n, more)

        assert await job.step("first", first, 1, more=2) == [1, 2]
        assert await job.step("plain", lambda: "text") == "text"
        assert job.state == (None if job.attempt == 1 else {"n": 1})
        await job.save({"n": 1})
        await job.progress(0.5, "half")
        assert await job.extend(timedelta(hours=1)) >= job.lease_until
        one_child = await job.enqueue("child")
        ran.append(one_child.id)
        if job.attempt == 1:
            raise ValueError("again")
        (result,) = await job.wait_for([one_child.id])
        ran.append(result.value)
        ran.append(await job.wait_signal("go"))
        await job.sleep(timedelta(milliseconds=1))
        ran.append("slept")

    job = queue.enqueue("k").id
    queue.signal(job, "go", {"by": "ann"})
    for _ in range(6):
        ripen(queue.conn)
        drain(loop)
    assert ran[0] == f"{job}/first"
    assert ran.count(ran[0]) == 1
    # Each attempt enqueues the same job.
    children = [number for number in ran if isinstance(number, int) and number != 7]
    assert len(children) > 2
    assert len(set(children)) == 1
    assert ran[-3:] == [7, {"by": "ann"}, "slept"]
    assert queue.result(job).state == "gone"


def test_an_async_handler_completes_its_job_in_its_own_transaction(
    queue: Queue, dsn: str, loop: Loop, handlers: Handlers
) -> None:
    """The job is done when that commits; other connections, and other handlers, are refused in words."""
    queue.conn.execute("CREATE TABLE effect (n int)")
    said: list[str] = []

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            await conn.execute("INSERT INTO effect VALUES (1)")
            await job.complete(conn, {"a": 1})
            if job.args:
                await conn.rollback()

    @handlers.handler("wrong")
    async def wrong(job: AsyncJob) -> None:
        with psycopg.connect(dsn) as conn:
            await job.complete(conn)  # type: ignore[arg-type]

    @handlers.handler("in", transaction=True)
    async def inside(job: AsyncJob, conn: psycopg.AsyncConnection[Any]) -> None:
        try:
            await job.complete(conn)
        except RuntimeError as error:
            said.append(str(error))

    # Ten are packed.
    ids = [one_.id for one_ in queue.enqueue_many([{"kind": "k", "args": n} for n in (0, 1)])]
    others: list[NewJob] = [{"kind": "k", "args": 0, "dedup": False} for _ in range(8)]
    queue.enqueue_many([{"kind": "wrong"}, {"kind": "in"}, *others])
    drain(loop)
    assert queue.result(ids[0]).value == {"a": 1}
    # Never committed: it waits for the end of its lease.
    assert queue.result(ids[1]).state == "running"
    assert one(queue.conn, "SELECT count(*) FROM effect") == 9
    errors = "SELECT errors -> 0 ->> 'error' FROM pgq_jobs WHERE kind = 'wrong'"
    assert one(queue.conn, errors).startswith("TypeError: pgq takes a psycopg.AsyncConnection, not a ")
    assert said == ["a handler with transaction=True leaves it to the worker to complete its job"]


def test_an_async_batch_handler(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """It is called with a list; its jobs have no steps."""
    lists: list[int] = []

    @handlers.handler("k", batch=5)
    async def work(batch: list[AsyncJob]) -> dict[int, Any]:
        lists.append(len(batch))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="a job in a batch has no steps"):
            await batch[0].save(1)
        return {job.id: ValueError("odd") if job.args % 2 else job.args for job in batch if job.args != 4}

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(5)])
    drain(loop)
    assert lists == [5]
    found = [state for _, state, _ in jobs(queue.conn)]
    assert found == ["done", "waiting", "done", "waiting", "waiting"]
    assert one(queue.conn, "SELECT errors -> 0 ->> 'error' FROM pgq_jobs WHERE id = 5").startswith(
        "pgq.Error: its batch handler has left it out"
    )


def test_async_functions_that_are_no_handlers_are_refused(handlers: Handlers) -> None:
    """In words, when they are registered."""

    async def work(job: AsyncJob, conn: Any) -> None:
        pass

    async def generate(job: AsyncJob) -> Any:
        yield job

    with pytest.raises(ValueError, match="an async handler with transaction=True takes no batch"):
        handlers.handler("k", batch=5, transaction=True)(work)
    with pytest.raises(
        TypeError,
        match="a handler is a function or an async function, and no generator",
    ):
        handlers.handler("k")(generate)
    with pytest.raises(TypeError, match=r"a handler is called as f\(job\)"):
        handlers.handler("k")(work)


def test_an_async_job_outside_a_worker_makes_no_calls() -> None:
    now = datetime.now(UTC)
    job = AsyncJob(1, 2, "q", "k", "{}", 1, 0, 5, now, now, now)
    for call in (
        job.extend,
        job.batch,
        lambda: job.save(1),
        lambda: job.step("a", int),
    ):
        with pytest.raises(RuntimeError, match="only while its handler runs in a worker"):
            asyncio.run(call())
    assert job.args == {}
    assert not job.cancelled


def test_a_hook_runs_around_async_handlers(queue: Queue, loop: Loop, handlers: Handlers, transaction: bool) -> None:
    """What it sets in the context is seen in the handler, its tasks and its threads, and by no other handler."""
    seen: list[Any] = []

    async def localize(job: AsyncJob | list[AsyncJob], proceed: Callable[[], Awaitable[Any]]) -> Any:
        assert isinstance(job, AsyncJob)
        seen.append(("before", job.args, LOCALE.get()))
        LOCALE.set(str(job.args))
        try:
            return await proceed()
        finally:
            seen.append(("after", job.args, LOCALE.get()))

    handlers.around(localize)

    @handlers.handler("k", transaction=transaction)
    async def work(job: AsyncJob, *conn: Any) -> None:
        assert {LOCALE.get()} == {
            str(job.args),
            await asyncio.create_task(asyncio.to_thread(LOCALE.get)),
            await job.step("in a step", LOCALE.get),
        }
        if job.args == 2:
            raise ValueError("no")

    queue.enqueue_many([{"kind": "k", "args": n} for n in (1, 2)])
    drain(loop)
    assert seen == [
        ("before", 1, "none"), ("after", 1, "1"), ("before", 2, "none"), ("after", 2, "2"),
    ]  # fmt: skip
    assert [state for _, state, _ in jobs(queue.conn)] == ["waiting"]


@pytest.mark.parametrize("is_async", [True, False])
def test_a_hook_that_would_not_be_called_for_all_handlers_is_refused(
    handlers: Handlers, make_worker: MakeWorker, is_async: bool
) -> None:
    """There is one hook for plain handlers, and one for async ones."""

    async def around(job: Any, proceed: Callable[[], Awaitable[Any]]) -> Any:
        return await proceed()

    def plain(job: Any, proceed: Callable[[], Any]) -> Any:
        return proceed()

    async def work(job: AsyncJob) -> None:
        pass

    handlers.handler("async")(work)
    handlers.handler("plain")(lambda job: None)
    handlers.around(around if is_async else plain)
    with pytest.raises(
        ValueError,
        match=r"it is not called for (plain|async) handlers, which need one of their own",
    ):
        make_worker().run()
    handlers.around(plain if is_async else around)
    handlers.check_hooks()
    with pytest.raises(ValueError, match="there is a hook already"):
        handlers.around(around)


def test_waiting_work_of_async_and_plain_loops_is_claimed_by_size(
    queue: WorkerQueue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """The first claim of an async worker is as large as its concurrency, but no claim is larger than --batch."""

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        await asyncio.sleep(0)

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(300)])
    worker = make_worker(concurrency=50)
    claim = worker.loops[0].settle_and_claim()
    assert claim is not None
    assert len(claim.ids) == 50
    small = make_worker(concurrency=50, batch=5)
    claim = small.loops[0].settle_and_claim()
    assert claim is not None
    assert len(claim.ids) == 5


def test_a_worker_knows_the_async_jobs_of_all_its_claims(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, running: list[Worker]
) -> None:
    """It extends their leases, and a reconcile gives none of them back."""
    go, begun = asyncio.Event(), list[int]()

    @handlers.handler("k")
    async def work(job: AsyncJob) -> None:
        begun.append(job.args)
        await go.wait()

    worker = make_worker(concurrency=5, lease=timedelta(seconds=3))
    start(worker, running)
    for n in range(3):
        queue.enqueue("k", n)
        eventually(partial(begun.__contains__, n))
    worker.presence.mark_uncertain()
    eventually(lambda: not worker.presence._uncertain)
    behind = "SELECT count(*) FROM pgq_running WHERE lease_until <= claimed_at + interval '3 s'"
    eventually(lambda: one(queue.conn, behind) == 0, "all leases are extended")
    assert [(state, attempt) for _, state, attempt in jobs(queue.conn)] == [("running", 1)] * 3
    loop = worker._event_loop.loop
    assert loop is not None
    loop.call_soon_threadsafe(go.set)
    eventually(lambda: jobs(queue.conn) == [])
    assert begun == [0, 1, 2]


def test_a_task_that_is_cancelled_waits_for_its_thread(make_worker: MakeWorker) -> None:
    """What the thread uses is free when the task goes on."""
    worker = make_worker()
    event_loop, go, ended = worker._event_loop, threading.Event(), threading.Event()
    seen: list[Any] = []

    def work() -> None:
        go.wait(30)
        seen.append("thread")

    async def wait() -> None:
        try:
            await event_loop.in_thread(work)
        except asyncio.CancelledError:
            seen.append("cancelled")
        ended.set()

    def begin() -> None:
        task = asyncio.get_running_loop().create_task(wait())
        seen.append(task)
        asyncio.get_running_loop().call_soon(task.cancel)
        asyncio.get_running_loop().call_later(0.05, task.cancel)
        asyncio.get_running_loop().call_later(0.1, go.set)

    event_loop.call(begin)
    assert ended.wait(30)
    assert seen[1:] == ["thread", "cancelled"]


def test_calls_of_one_job_that_are_made_at_once_wait_for_each_other(
    queue: Queue, loop: Loop, handlers: Handlers
) -> None:
    """None is lost, and each step is kept."""

    @handlers.handler("k")
    async def work(job: AsyncJob) -> int:
        await asyncio.gather(*(job.enqueue("later", n, delay="1 hour") for n in range(8)), job.save("x"))
        return len(job._job._run().steps)

    job = queue.enqueue("k").id
    drain(loop)
    assert queue.result(job).value == 8
    assert one(queue.conn, "SELECT count(*) FROM pgq_jobs WHERE kind = 'later'") == 8
