"""For tests in Django's TestCase: run the jobs that were enqueued in the transaction of the test."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from pgq import handlers as registry
from pgq.convert import as_result
from pgq.django.run import register
from pgq.django.schema import raw
from pgq.handlers import Handler
from pgq.job import BatchProgress, ClaimedJob, Job
from pgq.worker.calls import WorkerQueue
from pgq.worker.judge import judge
from pgq.worker.outcomes import Completed, Outcome
from pgq.worker.settle import record
from pgq.workflow import StepRuntime

LEASE = timedelta(minutes=5)
WORKER = "test"


def run_ripe(using: str = DEFAULT_DB_ALIAS, queues: Sequence[str] | None = None) -> int:
    """
    Run the jobs that are ripe, until none is, on a connection of Django's and in its transaction; return how many ran.

    Without ``queues`` these are all queues. Each job runs under a savepoint: what it has written is undone when it
    fails. Then it waits for its backoff, or is dead, as with a worker. Jobs without a task or a handler stay, and so do
    those of async handlers, which need a worker; tasks may be coroutines.
    """
    register()
    queue = WorkerQueue(raw(connections[using]))
    ran = 0
    while job := _claimed(queue, queues):
        record(queue, [_run(queue, job, using)], "2s")
        ran += 1
    return ran


def _claimed(queue: WorkerQueue, queues: Sequence[str] | None) -> Job | None:
    """Claim a job that has a handler which can be called here."""
    for name in queue.queues_to_serve() if queues is None else queues:
        for job in queue.claim([name], 1, LEASE, WORKER):
            handler = registry.default.get(job.kind)
            if handler is not None and not handler.is_async:
                return job
            queue.decline(job)
    return None


def _run(queue: WorkerQueue, job: Job, using: str) -> Outcome:
    """Call the handler of a job, and return the outcome."""
    handler = registry.default.get(job.kind)
    assert handler is not None
    job._claim.runtime = Runtime(queue)
    try:
        with transaction.atomic(using):
            returned = _call(handler, job, queue)
        result = None if returned is None else as_result(returned, registry.default.json_hook)
        return Completed(job, result, 0.0)
    except BaseException as error:
        # Ctrl-C, unlike the exceptions of pgq that are kinds of it.
        if type(error) is KeyboardInterrupt:
            raise
        return judge(handler, job, error, raised_by_handler=True, seconds=0.0)


def _call(handler: Handler, job: Job, queue: WorkerQueue) -> Any:
    """Call a handler as a worker does: with the connection if it is transactional, or with a list for a batch."""
    if handler.transaction:
        return registry.default.execute(handler, job, queue.conn)
    if handler.batch is None:
        return registry.default.execute(handler, job)
    returned = registry.default.execute(handler, [job])
    result = None if returned is None else returned[job.id]
    if isinstance(result, BaseException):
        raise result
    return result


class Runtime:
    """What a job may call while it runs in a test."""

    lease = LEASE
    worker = WORKER
    database: str | None = None

    def __init__(self, queue: WorkerQueue) -> None:
        self._queue = queue

    def extend(self, job: Job, lease: timedelta | None) -> datetime:
        """Extend the lease."""
        return self._queue.extend(job, lease or self.lease)

    def complete(self, job: Job, conn: psycopg.Connection[Any], result: Any) -> None:
        """Complete the job."""
        WorkerQueue(conn).complete(job, result)

    def batch(self, job: Job) -> BatchProgress:
        """Return the numbers of the batch."""
        return self._queue.batch_progress(job.id)

    def is_cancelled(self, job: ClaimedJob) -> bool:
        """Return whether the job is to be cancelled: in the transaction of a test nobody asks for that."""
        return False

    def steps(self, job: Job) -> StepRuntime:
        """Refuse: a step is a transaction of its own."""
        raise RuntimeError("in a test's transaction a job has no steps; use TransactionTestCase and a worker")
