"""Loaded by the workers of a broken build: a job is completed after, not with, the commit of its handler's writes."""

from __future__ import annotations

from pgq.handlers import Handler
from pgq.job import Job
from pgq.worker.executor import Executor, Result


def _in_transaction(self: Executor, handler: Handler, job: Job) -> Result:
    try:
        queue = self.session.queue()
        with queue.conn.transaction():
            self._call(handler, job, queue.conn)
    except Exception as error:
        return self._undone(handler, job, error)
    return self._returned(job, None)


Executor._in_transaction = _in_transaction  # type: ignore[method-assign]
