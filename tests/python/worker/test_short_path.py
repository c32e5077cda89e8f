"""The short paths through plain and through transactional handlers keep the promises of the long one."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from time import monotonic
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from support.database import Connect, jobs
from support.modes import MODES
from support.threads import Thread
from support.workers import MakeWorker, drain

from pgq import Cancelled, Drain, Handlers, Job, Queue
from pgq.job import Claim
from pgq.worker.django_connections import DJANGO
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing
from pgq.worker.timeout import Interruption

Call = tuple[Claim, int]
modes = pytest.mark.parametrize("mode", ["plain", "transactional"])


@pytest.fixture(autouse=True)
def without_django(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the Django that another test has imported: a plain handler has none around it."""
    monkeypatch.delitem(sys.modules, DJANGO, raising=False)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, loop: Loop) -> None:
    """Fail if a job takes the long path."""
    monkeypatch.setattr(loop, "dispatch", lambda job: pytest.fail(f"{job} takes the long path"))


@modes
@pytest.mark.usefixtures("short")
def test_other_threads_see_what_a_handler_runs(queue: Queue, loop: Loop, handlers: Handlers, mode: str) -> None:
    """They see the job as it was claimed, since when it runs, and the jobs that have not begun."""
    seen: list[Any] = []

    @handlers.handler("k", **MODES[mode])
    def look(job: Job, *_: Any) -> None:
        number = job.id
        job.id = job.kind = job._claim = None  # type: ignore[assignment]
        execution = loop.executor.execution
        assert execution is not None
        assert execution.handler is handlers.get("k")
        assert loop.claimed.at <= execution.since <= monotonic()
        assert execution.claimed_at == loop.claimed.at
        seen.append((number, [one.id for one in execution.jobs], [one.id for one in loop.held_jobs(0)]))
        assert {*ids} <= {one.id for one in loop.known_jobs()}

    ids = [queue.enqueue("k", n).id for n in range(2)]
    drain(loop)
    assert seen == [(ids[0], [ids[0]], [ids[1], ids[0]]), (ids[1], [ids[1]], [ids[1]])]
    assert loop.executor.execution is None
    assert jobs(queue.conn) == []


@modes
@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_handler_is_interrupted_when_its_job_is_cancelled(
    queue: Queue,
    make_worker: MakeWorker,
    handlers: Handlers,
    mode: str,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    concurrency: int,
) -> None:
    """In the main thread, where a single loop runs, and in another one. The next job is not."""
    begun = threading.Event()
    ended: list[str] = []

    @handlers.handler("k", **MODES[mode])
    def wait(job: Job, *_: Any) -> None:
        begun.set()
        until = monotonic() + 30
        while job.args == 0 and monotonic() < until:
            time.sleep(0.01)
        ended.append("returned")

    monkeypatch.setattr(Loop, "dispatch", lambda self, job: pytest.fail(f"{job} takes the long path"))
    operator = Queue(connect())
    ids = [queue.enqueue("k", n).id for n in range(2)]
    thread = Thread(lambda: begun.wait(30) and operator.cancel(ids[0]))
    make_worker(drain=Drain(until_empty=True), poll=0.1, concurrency=concurrency).run()
    assert thread.result(30) == "requested"
    assert ended == ["returned"]
    assert jobs(queue.conn) == [(ids[0], "cancelled", 1)]


@modes
@pytest.mark.usefixtures("short")
def test_a_child_that_a_handler_forks_ends_where_the_handler_does(
    queue: Queue, loop: Loop, handlers: Handlers, mode: str
) -> None:
    """It does not go on as a second worker."""
    codes: list[int] = []

    @handlers.handler("k", **MODES[mode])
    def fork(job: Job, *_: Any) -> None:
        child = os.fork()
        if child == 0:
            # Should it go on.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 1.0)
            return
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    queue.enqueue("k")
    drain(loop)
    assert codes == [1]
    assert jobs(queue.conn) == []


@modes
@pytest.mark.usefixtures("short")
def test_the_rest_of_a_batch_goes_back_when_another_loop_has_a_suspect(
    queue: Queue, loop: Loop, handlers: Handlers, mode: str
) -> None:
    """The loop with the suspect waits until this one holds no job."""
    ran: list[Any] = []
    other, now = object(), monotonic()

    @handlers.handler("k", **MODES[mode])
    def close(job: Job, *_: Any) -> None:
        ran.append(job.args)
        loop.state.gate.close(other, now, now + 60)

    ids = [queue.enqueue("k", n).id for n in range(3)]
    loop.turn()
    loop.finish()
    assert ran == [0]
    assert jobs(queue.conn) == [(job_id, "waiting", 0) for job_id in ids[1:]]


def test_the_loop_settles_between_jobs_when_that_is_due(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """Also when the ticker never comes to it."""
    (loop,) = make_worker(timing=Timing(tick=60.0, settle_after=0.0)).loops
    left: list[int] = []
    handlers.handler("k")(lambda job: left.append(len(jobs(queue.conn))))
    queue.enqueue_many([{"kind": "k", "args": n} for n in range(3)])
    loop.turn()
    assert left == [3, 2, 1]


def test_the_loop_settles_between_transactional_jobs_when_that_is_due(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """A job that has failed does not wait for those that come after it."""
    (loop,) = make_worker(timing=Timing(tick=60.0, settle_after=0.0)).loops
    states: list[str] = []

    @handlers.handler("k", transaction=True)
    def work(job: Job, _: Any) -> None:
        states.append(jobs(queue.conn)[0][1])
        if job.args == 0:
            raise ValueError("no")

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(2)])
    loop.turn()
    assert states == ["running", "waiting"]


CHANGES: dict[str, Callable[[], object]] = {
    "SIGTERM": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "SIGINT": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    "SIGALRM": lambda: signal.signal(signal.SIGALRM, signal.SIG_IGN),
    "recursion limit": lambda: sys.setrecursionlimit(sys.getrecursionlimit() - 1),
}


def state() -> list[object]:
    """Return what the handlers of these tests change."""
    return [*map(signal.getsignal, (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)), sys.getrecursionlimit()]


@modes
@pytest.mark.parametrize("what", CHANGES)
def test_a_quick_handler_changes_nothing_for_the_next_one(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, mode: str, what: str
) -> None:
    """The next one may take long, and the worker must be stopped then."""
    found: list[list[object]] = []

    @handlers.handler("k", **MODES[mode])
    def change(job: Job, *_: Any) -> None:
        found.append(state())
        CHANGES[what]()

    queue.enqueue_many([{"kind": "k", "args": n} for n in range(3)])
    worker = make_worker(drain=Drain(until_empty=False))
    before = sys.getrecursionlimit()
    try:
        worker.run()
    finally:
        sys.setrecursionlimit(before)
    assert len(found) == 3
    assert found[0] == found[1] == found[2]


@modes
def test_django_may_be_imported_by_a_handler(
    queue: Queue, loop: Loop, handlers: Handlers, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old connections are closed after this handler, and around the ones that follow."""
    closed: list[int] = []
    ran: list[int] = []
    modules = {"django.db": ModuleType("django.db"), "django.conf": ModuleType("django.conf")}
    modules["django.db"].close_old_connections = lambda: closed.append(len(ran))  # type: ignore[attr-defined]
    modules["django.conf"].settings = SimpleNamespace(configured=True)  # type: ignore[attr-defined]

    @handlers.handler("k", **MODES[mode])
    def use(job: Job, *_: Any) -> None:
        ran.append(job.id)
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)

    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    queue.enqueue_many([{"kind": "k", "args": n} for n in range(2)])
    drain(loop)
    assert closed == [1, 1, 2]


def claim_of(*ids: int) -> Claim:
    """Return a claim whose first job is to be cancelled."""
    count = len(ids)
    now: Any = None
    claim = Claim(1, now, False, ids, ["k"] * count, ["{}"] * count, [1] * count, {})
    claim.cancelled.add(ids[0])
    return claim


def test_a_handler_that_has_returned_is_not_interrupted() -> None:
    """Of the loop and the ticker, one gets hold of the call."""
    interruption, claim = Interruption(), claim_of(1, 2)
    interruption.enter()
    interruption.interruptible.append((claim, 1))
    interruption.interruptible.pop()
    interruption.check()
    assert interruption.at is None
    interruption.interruptible.append((claim, 2))
    interruption.check()
    assert (interruption.at, interruption.interruptible) == (None, [(claim, 2)])


def wait_for_ever(ticker: threading.Thread) -> None:
    """Start a thread that ends this wait."""
    ticker.start()
    while ticker is not None:
        pass


def test_a_call_that_was_interrupted_leaves_nothing_behind() -> None:
    """The ticker has got hold of the call, and raises the exception in its thread."""
    interruption = Interruption()
    interruption.enter()
    # As in another thread than the main one, which a signal interrupts.
    interruption._main = False
    interruption.interruptible.append((claim_of(1), 1))
    ticker = threading.Thread(target=interruption.check)
    with pytest.raises(Cancelled):
        wait_for_ever(ticker)
    ticker.join()
    assert interruption.interruptible == []
    interruption.leave()
    assert interruption.at is None


class Moving(list[Call]):
    """Calls of which the last one changes after it was looked at."""

    def __getitem__(self, index: Any) -> Any:
        last = super().__getitem__(index)
        self[-1:] = [(last[0], last[1] + 1)]
        return last


def test_the_call_after_a_cancelled_one_is_not_interrupted() -> None:
    """Also when it begins while the ticker looks at the one before."""
    interruption, claim = Interruption(), claim_of(1, 2)
    interruption.enter()
    interruption.interruptible = Moving([(claim, 1)])
    interruption.check()
    assert interruption.at is None
    assert list(interruption.interruptible) == [(claim, 2)]
