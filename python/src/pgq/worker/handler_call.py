"""The call of a handler: what is done around it, and the outcome that its result or its exception leads to."""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from pgq import tracing
from pgq.convert import as_result
from pgq.errors import Error
from pgq.handlers import Handler, Handlers
from pgq.job import Claim, Job
from pgq.process.signals import StopSignals
from pgq.worker.django_connections import DJANGO, close_old_connections
from pgq.worker.execution import Execution
from pgq.worker.joblog import describe
from pgq.worker.judge import judge
from pgq.worker.outcomes import Completed, CompletedWithNote, Outcome, Result, Settlement
from pgq.worker.settle import without_result
from pgq.worker.timeout import Interruption


def lend(job: Job) -> Job:
    """Return another object for a job, for its handler, which may do anything to it."""
    lent = job._claim.job(job._index)
    lent._args = job._args
    return lent


class Call:
    """A call of a handler, and the outcome that its result or its exception leads to."""

    def __init__(self, handlers: Handlers, clock: Callable[[], float]) -> None:
        # Whether a handler was called in this run, and whether one is being called now.
        self.begun = False
        self.calling = False
        self._handlers = handlers
        self._clock = clock
        self._called_at = 0.0

    def returned(self, job: Job, result: Any) -> Result:
        """Return the result of a job whose handler has returned, perhaps after it completed the job itself."""
        if job._completed:
            return Settlement(job, "done", seconds=self.seconds())
        return self.encoded(job, result)

    def encoded(self, job: Job, result: Any) -> Completed | CompletedWithNote:
        """
        Return the outcome of a job whose handler has returned, whatever the conversion of its result raises.

        Raises TypeError for a coroutine that has not begun: a decorator may make a plain function of an async one.
        """
        if result is None:
            return Completed(job, None, self.seconds())
        if inspect.iscoroutine(result) and inspect.getcoroutinestate(result) == inspect.CORO_CREATED:
            result.close()
            raise TypeError(
                "the handler has returned a coroutine, of which nothing has run: await it, or register its function"
            )
        try:
            return Completed(job, as_result(result, self._handlers.json_hook), self.seconds())
        except BaseException as error:
            return without_result(job, describe(error), type(error).__name__, self.seconds())

    def returned_by_batch(self, handler: Handler, jobs: list[Job], returned: Any) -> list[Result]:
        """Return the results of the jobs of a batch handler that has returned."""
        if returned is not None and not isinstance(returned, Mapping):
            raise TypeError(f"a batch handler returns None or a mapping from ids, and not a {type(returned).__name__}")
        results: list[Result] = []
        for job in jobs:
            try:
                results.append(self._returned_by_batch(handler, job, returned))
            except BaseException as error:
                results.append(self.judge(handler, job, error))
        return results

    def judge(self, handler: Handler, job: Job, error: BaseException, *, raised_by_handler: bool = False) -> Outcome:
        """Return the outcome of a job after an exception, which may be one that the worker has raised."""
        return judge(handler, job, error, raised_by_handler=raised_by_handler or self.calling, seconds=self.seconds())

    def seconds(self) -> float:
        """Return for how long the run has lasted, from the call of the handler if there was one."""
        return self._clock() - self._called_at

    def _returned_by_batch(self, handler: Handler, job: Job, returned: Mapping[int, Any] | None) -> Result:
        if returned is None or job._completed:
            return self.returned(job, None)
        if job.id not in returned:
            raise Error("its batch handler has left it out")
        result = returned[job.id]
        if isinstance(result, BaseException):
            return self.judge(handler, job, result, raised_by_handler=True)
        return self.returned(job, result)


class HandlerCall(Call):
    """
    Call handlers, one at a time, in runs from ``begin`` to ``end``.

    A handler is interrupted when its time is over, gets copies of its jobs, and leaves the process as it was.
    """

    def __init__(self, handlers: Handlers, interruption: Interruption, clock: Callable[[], float]) -> None:
        super().__init__(handlers, clock)
        # What runs: an execution, or for the short path what makes one.
        self._execution: Execution | None = None
        self.running: tuple[Claim, int, Handler, float, float] | None = None
        # The process of the worker.
        self.pid = 0
        self._interruption = interruption
        self.recursion_limit = sys.getrecursionlimit()

    @property
    def execution(self) -> Execution | None:
        """What runs now, for other threads."""
        if (running := self.running) is None:
            return self._execution
        claim, index, handler, since, claimed_at = running
        return Execution((claim.job(index),), handler, since, claimed_at)

    def begin(self, handler: Handler, jobs: list[Job], claimed_at: float) -> None:
        """Begin a run of these jobs."""
        self._called_at = self._clock()
        self.begun = self.calling = False
        self.pid = os.getpid()
        self._execution = Execution(tuple(jobs), handler, self._called_at, claimed_at)

    def end(self) -> None:
        """End the run."""
        self._interruption.disarm()
        self._execution = None

    def call(self, handler: Handler, job: Job | list[Job], *connection: Any) -> Any:
        """Call a handler. A child process that it forks ends here, and does not go on as a second worker."""
        jobs = job if isinstance(job, list) else [job]
        lent = [lend(one) for one in jobs]
        argument = lent.copy() if isinstance(job, list) else lent[0]
        self._called_at = self._clock()
        if self._execution is not None:
            self._execution = Execution(*self._execution[:2], self._called_at, self._execution.claimed_at)
        self.begun = self.calling = True
        try:
            if handler.timeout is not None or handler.interrupt_on_cancel:
                self._interruption.arm(handler.timeout, jobs if handler.interrupt_on_cancel else [])
            # Within the timeout, because it may ask a server that is unreachable.
            close_old_connections()
            try:
                if tracing.is_on():
                    with tracing.span(handler.kind, jobs):
                        result = self._handlers.execute(handler, argument, *connection)
                else:
                    result = self._handlers.execute(handler, argument, *connection)
            finally:
                if os.getpid() == self.pid:
                    close_old_connections()
        finally:
            # Before anything else: in the child a lock may be held by a thread that does not exist there.
            if os.getpid() != self.pid:
                os._exit(1)
            self._interruption.disarm()
            for one, copy in zip(jobs, lent, strict=True):
                one._completed = getattr(copy, "_completed", False)
            self.restore_process(self.seconds())
        self.calling = False
        return result

    def simple(self, handler: Handler) -> Callable[..., Any] | None:
        """Return what ``call_simple`` calls; None if a timeout, a hook, a span or Django is around the handler."""
        if handler.timeout is not None or self._handlers.has_hook or tracing.is_on() or DJANGO in sys.modules:
            return None
        return handler.function if handler.parameters is None else handler.call

    def begin_simple(self, handler: Handler, job: Job, claimed_at: float) -> None:
        """Begin a run of one job of a ``simple`` handler."""
        self._called_at = self._clock()
        self.begun = self.calling = False
        self.running = (job._claim, job._index, handler, self._called_at, claimed_at)

    def call_simple(
        self, function: Callable[..., Any], handler: Handler, job: Job, connection: psycopg.Connection[Any]
    ) -> Any:
        """Do what ``call`` does for one job of a transactional handler that is ``simple``, in less time."""
        interruption = self._interruption
        interruption.enter()
        lent = lend(job)
        self._called_at = self._clock()
        self.begun = self.calling = True
        if handler.interrupt_on_cancel:
            interruption.interruptible.append((job._claim, job.id))
        try:
            try:
                result = function(lent, connection)
            finally:
                # Before anything else: in the child a lock may be held by a thread that does not exist there.
                if os.getpid() != self.pid:
                    os._exit(1)
                if handler.interrupt_on_cancel:
                    try:
                        interruption.interruptible.pop()
                    except IndexError:
                        interruption.leave()
                if DJANGO in sys.modules:
                    close_old_connections()
                self.restore_process(self.seconds())
        except BaseException:
            interruption.leave()
            raise
        self.calling = False
        return result

    def resume(self, called_at: float, calling: bool) -> None:
        """Go on with a call of the short path, which has made it without ``call``."""
        self._called_at, self.calling = called_at, calling

    def restore_process(self, seconds: float) -> None:
        """
        Put back what the job's handler, which took so long, has changed in the process, as far as that would stop the
        worker.
        """
        if sys.getrecursionlimit() < self.recursion_limit:
            sys.setrecursionlimit(self.recursion_limit)
        # Only the main thread can set signal handlers.
        signals = StopSignals.active
        if signals is not None and signals.main_thread == threading.get_ident():
            signals.restore(seconds)
            self._interruption.restore()
