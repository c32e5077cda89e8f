"""How the steps of a job reach the database, through the session of transactional handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pgq.handlers import Handler, Handlers
from pgq.job import Job
from pgq.worker.calls import WorkerQueue
from pgq.worker.inside import Inside
from pgq.worker.transactions import Transactions
from pgq.workflow import StepRuntime

T = TypeVar("T")


class HandlerSteps(StepRuntime):
    """
    The steps of the job that a loop runs.

    A plain handler may be interrupted anywhere, so its steps do not use the session through which the loop claims.
    """

    def __init__(
        self, handler: Handler, job: Job, session: Inside, transactions: Transactions, handlers: Handlers
    ) -> None:
        self._handler = handler
        self._job = job
        self._session = session
        self._transactions = transactions
        self._handlers = handlers

    def check_steps(self) -> None:
        """Raise RuntimeError where no step may begin."""
        if self._handler.transaction:
            self._transactions.check_step()

    def in_transaction(self) -> bool:
        """Return whether the handler is in a transaction of the worker."""
        return self._handler.transaction

    def look(self, function: Callable[[WorkerQueue], T]) -> T:
        """Call a function that writes nothing."""
        if self._handler.transaction:
            self._transactions.check_step()
            return function(self._queue())
        return self._apart(function)

    def record(self, function: Callable[[WorkerQueue], T]) -> T:
        """Call a function in a transaction, that of the handler if it has one, and commit it."""
        if self._handler.transaction:
            self._transactions.check_step()
            result = function(self._queue())
            self._transactions.end_step(self._handler, self._job)
            return result
        return self._apart(function)

    def _apart(self, function: Callable[[WorkerQueue], T]) -> T:
        self._transactions.let_go()
        session = self._session
        try:
            session.queue()
            session.send(session.begin)
            result = function(self._queue())
            session.send("COMMIT")
        except BaseException:
            session.close_if_busy()
            session.roll_back()
            raise
        return result

    def _queue(self) -> WorkerQueue:
        queue = self._session.queue()
        return WorkerQueue(queue.conn, schema=self._session.schema, handlers=self._handlers)
