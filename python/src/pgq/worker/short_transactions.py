"""A short way through the calls of transactional handlers: their jobs wait for the server, and for little else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from pgq.handlers import Handler, Handlers
from pgq.worker.claimed import ClaimedJobs
from pgq.worker.django_connections import DJANGO
from pgq.worker.execution import NotBegun
from pgq.worker.handler_call import HandlerCall
from pgq.worker.outcomes import Result
from pgq.worker.settings import RunState, Settings
from pgq.worker.settle import Settler
from pgq.worker.suspect import LoopAtGate
from pgq.worker.transactions import Transactions


class ShortTransactions:
    """
    Run the jobs of transactional handlers one after the other, with all that ``Loop.dispatch`` and ``Executor.run``
    promise.

    Such a handler is not async, takes one job at a time, and has no timeout, hook, span or Django around it. That is
    asked once for the jobs of a kind that follow each other.
    """

    def __init__(
        self,
        settings: Settings,
        handlers: Handlers,
        state: RunState,
        claimed: ClaimedJobs,
        settler: Settler,
        handler_call: HandlerCall,
        transactions: Transactions,
        gate: LoopAtGate,
        settle: Callable[[], None],
    ) -> None:
        self._handlers = handlers
        self._state = state
        self._claimed = claimed
        self._settler = settler
        self._handler_call = handler_call
        self._transactions = transactions
        self._gate = gate
        self._settle = settle
        self._clock = settings.timing.clock

    def run(self, begin_until: float) -> int:
        """
        Run the next jobs until one has another handler or is to be cancelled, and while jobs may begin.

        Return how many were run. Raises what keeps the connection from being opened; the job is then put back.
        """
        state, claimed, settler, call, transactions = (
            self._state,
            self._claimed,
            self._settler,
            self._handler_call,
            self._transactions,
        )
        kind: str | None = None
        handler: Handler | None = None
        function: Callable[..., Any] | None = None
        begun = 0
        call.pid = os.getpid()
        try:
            while not state.stopping and (job := claimed.next()) is not None:
                if job.kind != kind or DJANGO in sys.modules:
                    kind = job.kind
                    handler, function = self._simple(kind)
                if handler is None or function is None or job._cancelled:
                    claimed.put_back([job])
                    break
                call.begin_simple(handler, job, claimed.at)
                begun += 1
                try:
                    conn = transactions.begin(handler, job)
                    job.args  # noqa: B018 - a payload that cannot be decoded fails here, before the handler is called
                    result: Result = transactions.end(job, call.call_simple(function, handler, job, conn))
                except BaseException as error:
                    result = transactions.failed(handler, job, error)
                settler.add([result])
                now = self._clock()
                if now > begin_until or self._gate.is_closed(now):
                    break
                if settler.is_due:
                    transactions.let_go()
                    self._settle()
        except NotBegun as error:
            claimed.put_back(error.jobs)
            raise (error.__cause__ or error) from None
        finally:
            call.running = None
        return begun

    def _simple(self, kind: str) -> tuple[Handler | None, Callable[..., Any] | None]:
        """Return the handler of a kind and what to call for a job, or None for both if the handler is another one."""
        handler = self._handlers.get(kind)
        if (
            handler is None
            or handler.is_async
            or not handler.transaction
            or handler.batch is not None
            or self._state.budget.limit is not None
            or (function := self._handler_call.simple(handler)) is None
        ):
            return None, None
        return handler, function
