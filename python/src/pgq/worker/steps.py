"""How the steps of a job reach the database, through the session of transactional handlers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

from pgq.handlers import Handlers
from pgq.job import Job
from pgq.worker.calls import WorkerQueue
from pgq.worker.execution import Execution
from pgq.worker.inside import Inside
from pgq.worker.settle import saving_in
from pgq.worker.transactions import Transaction
from pgq.workflow import StepRuntime

T = TypeVar("T")


class HandlerSteps(StepRuntime):
    """
    The steps of the job that a loop runs.

    A plain handler may be interrupted anywhere, so its steps do not use the session through which the loop claims.
    """

    def __init__(
        self,
        execution: Execution,
        job: Job,
        session: Inside,
        transactions: Transaction,
        handlers: Handlers,
        clock: Callable[[], float],
    ) -> None:
        self._execution = execution
        self._handler = execution.handler
        self._job = job
        self._session = session
        self._transactions = transactions
        self._handlers = handlers
        self._clock = clock

    def check_steps(self) -> None:
        """Raise RuntimeError where no step may begin."""
        if self._handler.transaction:
            self._transactions.check_step()

    def in_transaction(self) -> bool:
        """Return whether the handler is in a transaction of the worker."""
        return self._handler.transaction

    def since_claim(self) -> timedelta:
        """Return how long ago the job was claimed."""
        return timedelta(seconds=self._clock() - self._execution.claimed_at)

    def look(self, function: Callable[[WorkerQueue], T]) -> T:
        """Call a function that executes one statement, which writes nothing."""
        if self._handler.transaction:
            self._transactions.check_step()
            return function(self._queue())
        return self._apart(function)

    def save(self, text: Callable[[WorkerQueue], str], *, writes: bool) -> str:
        """
        Save the JSON text that a function returns, commit, and return the text.

        What a function that ``writes`` has written is committed with it, and in a handler with a transaction, what that
        has written. Otherwise the one statement needs no BEGIN and no COMMIT around it.
        """
        if self._handler.transaction:
            self._transactions.check_step()
            saved = text(self._queue())
            self._transactions.end_step(self._handler, self._job, saved)
            return saved
        return self._apart(partial(self._save, text), begin=writes)

    def _save(self, text: Callable[[WorkerQueue], str], queue: WorkerQueue) -> str:
        """Save what a function returns, and return it."""
        saved = text(queue)
        # A cursor would take longer than the server.
        if saving := saving_in(queue, self._job, saved):
            self._session.send(*saving)
        return saved

    def _apart(self, function: Callable[[WorkerQueue], T], *, begin: bool = False) -> T:
        """Call a function, with ``begin`` in a transaction, and otherwise with one for each statement."""
        self._transactions.let_go()
        session = self._session
        try:
            queue = self._queue()
            if not begin:
                return function(queue)
            session.send(session.begin)
            result = function(queue)
            session.send("COMMIT")
        except BaseException:
            session.close_if_busy()
            session.roll_back()
            raise
        return result

    def _queue(self) -> WorkerQueue:
        queue = self._session.queue()
        return WorkerQueue(queue.conn, schema=self._session.schema, handlers=self._handlers)
