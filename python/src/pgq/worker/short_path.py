"""A short way through the calls of plain handlers, for jobs that take less time than what else surrounds a call."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from pgq import tracing
from pgq.handlers import Handler, Handlers
from pgq.job import Job
from pgq.process.signals import QUICK, StopSignals, get_signal
from pgq.worker.claimed import ClaimedJobs
from pgq.worker.django_connections import DJANGO, close_old_connections
from pgq.worker.handler_call import HandlerCall
from pgq.worker.settings import RunState, Settings
from pgq.worker.settle import Settler
from pgq.worker.suspect import LoopAtGate
from pgq.worker.timeout import Interruption

# As numbers, which are looked up faster than members of an enum.
TERM: Final = int(signal.SIGTERM)
INT: Final = int(signal.SIGINT)
ALRM: Final = int(signal.SIGALRM)


class ShortPath:
    """
    Run the jobs of plain handlers one after the other, with all that ``Executor.run`` and ``HandlerCall.call`` promise.

    A plain handler is not async, and has no batch, transaction, timeout, hook, span or Django around it. That is asked
    once for the jobs of a kind that follow each other. The handler gets the object that was claimed, and may do
    anything to it: from then on the worker knows the job by its claim and its place there.
    """

    def __init__(
        self,
        settings: Settings,
        handlers: Handlers,
        state: RunState,
        claimed: ClaimedJobs,
        settler: Settler,
        handler_call: HandlerCall,
        interruption: Interruption,
        gate: LoopAtGate,
        settle: Callable[[], None],
    ) -> None:
        self._handlers = handlers
        self._state = state
        self._claimed = claimed
        self._settler = settler
        self._handler_call = handler_call
        self._interruption = interruption
        self._gate = gate
        self._settle = settle
        self._clock = settings.timing.clock
        self._settle_after = settings.timing.settle_after

    def run(self, begin_until: float) -> int:  # noqa: PLR0912, PLR0915 - a call of a function costs as much as a job
        """
        Run the next jobs until one has no plain handler or is to be cancelled, and while jobs may begin.

        Return how many were run.
        """
        state, gate, claimed, settler = self._state, self._state.gate, self._claimed, self._settler
        call, interruption, clock, getpid = self._handler_call, self._interruption, self._clock, os.getpid
        unstarted, done, interruptible, modules = (
            claimed.unstarted,
            settler.done,
            interruption.interruptible,
            sys.modules,
        )
        get_limit, limit, claimed_at = sys.getrecursionlimit, call.recursion_limit, claimed.at
        signals = StopSignals.active
        is_main = signals is not None and signals.main_thread == threading.get_ident()
        stop, alarm = signals.handler if signals is not None else None, interruption.handler
        kind: str | None = None
        handler: Handler | None = None
        function: Callable[[Job], Any] | None = None
        begun = 0
        pid = call.pid = getpid()
        interruption.enter()
        now = clock()
        try:
            while not state.stopping:
                try:
                    job = unstarted.popleft()
                except IndexError:
                    break
                if job.kind != kind:
                    kind = job.kind
                    handler, function = self._plain(kind)
                claim, index, job_id = job._claim, job._index, job.id
                if handler is None or function is None or (claim.cancelled and job_id in claim.cancelled):
                    unstarted.appendleft(job)
                    break
                called_at, calling = now, False
                call.running = (claim, index, handler, called_at, claimed_at)
                begun += 1
                try:
                    job.args  # noqa: B018 - a payload that cannot be decoded fails here, before the handler is called
                    calling = True
                    if handler.interrupt_on_cancel:
                        interruptible.append((claim, job_id))
                    try:
                        result = function(job)
                    finally:
                        # Before anything else: in the child a lock may be held by a thread that does not exist there.
                        if getpid() != pid:
                            os._exit(1)
                        if handler.interrupt_on_cancel:
                            try:
                                interruptible.pop()
                            except IndexError:
                                interruption.leave()
                        now = clock()
                        if get_limit() < limit or (
                            is_main
                            and (
                                now - called_at > QUICK
                                or get_signal(TERM) is not stop
                                or get_signal(INT) is not stop
                                or get_signal(ALRM) is not alarm
                            )
                        ):
                            call.restore_process(now - called_at)
                        if DJANGO in modules:
                            close_old_connections()
                            kind = None
                    calling = False
                    if result is None and not getattr(job, "_completed", False):
                        done.append((job_id, claim, index, now - called_at))
                    else:
                        original = claim.job(index)
                        original._completed = getattr(job, "_completed", False)
                        call.resume(called_at, calling)
                        settler.add([call.returned(original, result)])
                except BaseException as error:
                    interruption.leave()
                    call.resume(called_at, calling)
                    settler.add([call.judge(handler, claim.job(index), error)])
                    now = clock()
                if now > begin_until or (gate.owner is not None and self._gate.is_closed(now)):
                    break
                if now - settler.settled_at > self._settle_after and settler.has_pending:
                    self._settle()
                    now = clock()
        finally:
            call.running = None
        return begun

    def _plain(self, kind: str) -> tuple[Handler | None, Callable[[Job], Any] | None]:
        """Return the handler of a kind and what to call for a job, or None for both if the handler is not plain."""
        handler = self._handlers.get(kind)
        if (
            handler is None
            or handler.is_async
            or handler.batch is not None
            or handler.transaction
            or handler.timeout is not None
            or self._handlers.has_hook
            or self._state.budget.limit is not None
            or tracing.is_on()
            or DJANGO in sys.modules
        ):
            return None, None
        return handler, handler.function if handler.parameters is None else handler.call
