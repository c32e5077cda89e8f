"""For the workers of a build that is broken on purpose: completion does not go with the writes of the handler."""

from __future__ import annotations

from pgq.handlers import Handler
from pgq.job import Job
from pgq.worker.executor import Executor, Result


def _apart(self: Executor, handler: Handler, job: Job) -> Result:
    try:
        with self.session.queue().conn.transaction():
            self._call(handler, job, self.session.queue().conn)
    except Exception as error:
        return self._rolled_back(handler, [job], [], error)[0]
    return self._returned(job, None)


Executor._in_transaction = _apart  # type: ignore[method-assign]
