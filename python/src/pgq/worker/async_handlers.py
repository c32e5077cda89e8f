"""The async handlers that a loop runs beside each other, on the event loop of its worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pgq.errors import Cancelled, Error
from pgq.handlers import Handler, Handlers
from pgq.job import ClaimedJob, Job
from pgq.worker.async_call import AsyncCall
from pgq.worker.async_sessions import AsyncSessions
from pgq.worker.event_loop import EventLoop
from pgq.worker.execution import Execution, NotBegun
from pgq.worker.outcomes import Released, Result
from pgq.worker.settings import Settings
from pgq.worker.wakeup import Wakeup


class Results(Protocol):
    """What takes what becomes of the jobs."""

    def add(self, results: Sequence[Result]) -> None: ...


class AsyncHandlers:
    """
    Run async handlers, up to ``most`` at a time. The loop begins them, and waits while no other may begin.

    What becomes of their jobs goes to the ``settler``. ``wake`` is called when a handler has ended and the loop waits:
    until another may begin, for the end of all, or asleep for new jobs.
    """

    def __init__(
        self,
        settings: Settings,
        handlers: Handlers,
        settler: Results,
        wakeup: Wakeup,
        *,
        most: int,
        event_loop: EventLoop,
        sessions: AsyncSessions,
        unpack: Callable[[Job], None],
        wake: Callable[[], None],
    ) -> None:
        self.most = most
        self.sessions = sessions
        self.event_loop = event_loop
        # When the loop began to wait until another handler may begin; None while it does not.
        self.waiting_since: float | None = None
        # How many handlers have ended.
        self.ended = 0
        self._settings = settings
        self._handlers = handlers
        self._settler = settler
        self._wakeup = wakeup
        self._unpack = unpack
        self._wake = wake
        self._clock = settings.timing.clock
        self._calls: set[AsyncCall] = set()
        self._is_awaited = False
        # Why a job could not begin.
        self._unavailable: BaseException | None = None

    @property
    def is_busy(self) -> bool:
        """Whether handlers run."""
        return bool(self._calls)

    @property
    def free(self) -> int:
        """How many handlers may begin."""
        return self.most - len(self._calls)

    def executions(self) -> list[Execution]:
        """Return what runs."""
        return [call.execution for call in self._calls.copy()]

    def call_of(self, job: ClaimedJob) -> AsyncCall | None:
        """Return the call of a job's handler, if it runs."""
        return next((call for call in self._calls.copy() if job in call.jobs), None)

    def begin(self, handler: Handler, jobs: list[Job], claimed_at: float) -> None:
        """Begin to run jobs of one kind, several only for a batch handler."""
        call = AsyncCall(
            handler,
            jobs,
            claimed_at,
            handlers=self._handlers,
            settings=self._settings,
            event_loop=self.event_loop,
            sessions=self.sessions,
            unpack=self._unpack,
        )
        self._calls.add(call)
        self.event_loop.call(self._begin, call)

    def wait_for_room(self) -> None:
        """Wait until another handler may begin."""
        if self.free > 0:
            return
        self.waiting_since = self._clock()
        try:
            self.wait(lambda: self.free > 0)
        finally:
            self.waiting_since = None

    def wait_for_all(self) -> None:
        """Wait until no handler runs."""
        self.wait(lambda: not self.is_busy)

    def wait(self, condition: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait for a condition that the end of a handler may bring about, for so many seconds at most."""
        until = None if seconds is None else self._clock() + seconds
        while True:
            self.expect_end()
            left = None if until is None else until - self._clock()
            if condition() or (left is not None and left <= 0):
                return
            self._wakeup.wait(left)

    def expect_end(self) -> None:
        """Let the end of the next handler wake the loop."""
        self._is_awaited = True

    def raise_unavailable(self) -> None:
        """Raise what has kept a job from beginning since the last call: there was no connection for it."""
        if self._unavailable is not None:
            error, self._unavailable = self._unavailable, None
            raise error

    def tick(self) -> None:
        """Interrupt what is to be cancelled, and watch the event loop. The ticker calls this."""
        calls = self._calls.copy()
        for call in calls:
            if call.is_to_be_cancelled:
                self.event_loop.call(call.interrupt, Cancelled)
        if calls:
            self.event_loop.watch(self._name)

    def fail_all(self) -> None:
        """Let the jobs of all handlers that run have failed: their event loop has ended."""
        for call in self._calls.copy():
            error = Error("the event loop has ended, which an async handler must not close")
            self._end(call, [call.judge(call.handler, job, error) for job in call.jobs])

    def _begin(self, call: AsyncCall) -> None:
        def end(_: asyncio.Task[None]) -> None:
            # Of a task that is cancelled before it has begun, as by a handler that cancels all tasks, nothing runs.
            if call in self._calls:
                error = asyncio.CancelledError()
                self._end(call, [call.judge(call.handler, job, error) for job in call.jobs])

        call.task = asyncio.get_running_loop().create_task(self._run(call))
        call.task.add_done_callback(end)

    async def _run(self, call: AsyncCall) -> None:
        try:
            results = await call.results()
        except NotBegun as error:
            self._unavailable = error.__cause__ or error
            results = [Released(job) for job in call.jobs]
        except BaseException as error:
            results = [call.judge(call.handler, job, error) for job in call.jobs]
        self._end(call, results)

    def _end(self, call: AsyncCall, results: Sequence[Result]) -> None:
        if call not in self._calls:
            return
        # In this order, in which jobs move on.
        self._settler.add(results)
        self._calls.discard(call)
        self.ended += 1
        if self._is_awaited:
            self._is_awaited = False
            self._wake()

    def _name(self, task: asyncio.Task[Any] | None) -> str:
        """Return the name of the job that a task belongs to."""
        call = next((call for call in self._calls.copy() if task is not None and call.task is task), None)
        if call is None:
            return "a task of a handler"
        job = call.jobs[0]
        return f"job {job.id} {job.kind}"
