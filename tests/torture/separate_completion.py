"""Loaded by the workers of a broken build: a job is completed after, not with, the commit of its handler's writes."""

from __future__ import annotations

from pgq.handlers import Handler
from pgq.job import Job
from pgq.worker.outcomes import Result
from pgq.worker.short_transactions import ShortTransactions
from pgq.worker.transactions import Transactions


def _run_one(self: Transactions, handler: Handler, job: Job) -> Result:
    try:
        queue = self._session.queue()
        with queue.conn.transaction():
            self._caller.call(handler, job, queue.conn)
    except Exception as error:
        return self._undone(handler, job, error)
    return self._handler_call.returned(job, None)


def _run_none(self: ShortTransactions, begin_until: float) -> int:
    """Leave all jobs to ``run_one``."""
    return 0


Transactions.run_one = _run_one  # type: ignore[method-assign]
ShortTransactions.run = _run_none  # type: ignore[method-assign]
