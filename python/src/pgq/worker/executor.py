"""One attempt at a job: the executor calls the handler, and turns what it returns or raises into an outcome."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg

from pgq.errors import PayloadError
from pgq.handlers import Handler, Handlers
from pgq.job import BatchProgress, ClaimedJob, Job
from pgq.worker.async_handlers import AsyncHandlers
from pgq.worker.calls import WorkerQueue
from pgq.worker.execution import Execution
from pgq.worker.handler_call import HandlerCall
from pgq.worker.inside import Inside
from pgq.worker.outcomes import Result
from pgq.worker.settings import Settings
from pgq.worker.steps import HandlerSteps
from pgq.worker.timeout import Interruption
from pgq.worker.transactions import Transactions


class Executor:
    """
    Run handlers, one at a time.

    Whatever goes wrong in a handler is the failure of its own job. Transactional handlers use a session of their own,
    so that none can touch the one through which the loop claims and settles. ``extend`` extends the lease of a job;
    ``batch`` returns the numbers of its batch; ``unpack`` lets the server keep a job and those that were claimed with
    it in rows of their own; ``peek`` returns the job that the loop will run next, if there is one; ``async_handlers``
    run beside these.
    """

    def __init__(
        self,
        handlers: Handlers,
        session: Inside,
        settings: Settings,
        extend: Callable[[Job, timedelta], datetime],
        unpack: Callable[[Job], None],
        batch: Callable[[Job], BatchProgress],
        peek: Callable[[], Job | None],
        async_handlers: AsyncHandlers,
    ) -> None:
        self.handlers = handlers
        self.session = session
        self.settings = settings
        self.lease = settings.lease
        self.worker = settings.name
        self.database = settings.database
        self.interruption = Interruption()
        self._extend = extend
        self._unpack = unpack
        self._batch = batch
        self._peek = peek
        self._async_handlers = async_handlers
        self.handler_call = HandlerCall(handlers, self.interruption, settings.timing.clock)
        self.transactions = Transactions(self.handler_call, session, settings, self._following)

    @property
    def execution(self) -> Execution | None:
        """What runs now, in the thread of the loop."""
        return self.handler_call.execution

    @property
    def executions(self) -> list[Execution]:
        """All that runs now."""
        execution = self.execution
        return [*([] if execution is None else [execution]), *self._async_handlers.executions()]

    def begin_async(self, handler: Handler, jobs: list[Job], claimed_at: float) -> None:
        """Begin to run an async handler, of which one more may begin, and wait until that is so again."""
        self.let_go()
        self.handler_call.pid = os.getpid()
        self._async_handlers.begin(handler, jobs, claimed_at)
        self._async_handlers.wait_for_room()

    def run(self, handler: Handler, jobs: list[Job], claimed_at: float) -> list[Result]:
        """
        Run jobs of one kind (several only for a batch handler), and return a result for each.

        A result is an outcome that is to be recorded, or a settlement where the job's transaction has recorded it.
        Raises NotBegun.
        """
        if not handler.transaction:
            self.let_go()
        self.handler_call.begin(handler, jobs, claimed_at)
        try:
            if handler.batch is not None:
                return (self.transactions.run_batch if handler.transaction else self._run_list)(handler, jobs)
            return [(self.transactions.run_one if handler.transaction else self._run_one)(handler, jobs[0])]
        finally:
            self.handler_call.end()

    def let_go(self, *, unless: Job | None = None) -> None:
        """
        Hold no job before its turn, except for this one. The loop calls this before it runs another job, settles,
        releases or sleeps: a release would wait for the transaction that holds the job.
        """
        self.transactions.let_go(unless)

    def extend(self, job: Job, lease: timedelta | None) -> datetime:
        """Extend the lease of a job; ``Job.extend`` calls this."""
        self._refuse_in_child()
        return self._extend(job, lease or self.lease)

    def complete(self, job: Job, conn: psycopg.Connection[Any], result: Any) -> None:
        """Complete a job through a connection of its handler; ``Job.complete`` calls this."""
        self._refuse_in_child()
        execution = self.execution
        if execution is not None and execution.handler.transaction:
            raise RuntimeError("a handler with transaction=True leaves it to the worker to complete its job")
        if job._claim.packed:
            # The transaction of the handler, which may stay open, then locks no other job.
            self._unpack(job)
        WorkerQueue(conn, schema=self.settings.schema, handlers=self.handlers).complete(job, result)

    def batch(self, job: Job) -> BatchProgress:
        """Return the numbers of the batch whose last job this is; ``Job.batch`` calls this."""
        self._refuse_in_child()
        return self._batch(job)

    def steps(self, job: Job) -> HandlerSteps:
        """Return what the steps of a job call. Raises RuntimeError for a job that has none."""
        self._refuse_in_child()
        if (call := self._async_handlers.call_of(job)) is not None:
            return call.steps(job)
        execution = self.execution
        if execution is None or all(one.id != job.id for one in execution.jobs):
            raise RuntimeError("a job has steps only while its handler runs in a worker")
        if execution.handler.batch is not None:
            raise RuntimeError(f'the handler of kind "{job.kind}" runs batches: a job in a batch has no steps')
        clock = self.settings.timing.clock
        return HandlerSteps(execution, job, self.session, self.transactions, self.handlers, clock)

    def _following(self) -> tuple[Handler, Job] | None:
        """Return the next job and its handler, if that takes one job at a time, in a transaction."""
        job = self._peek()
        handler = None if job is None or job._cancelled else self.handlers.get(job.kind)
        if job is None or handler is None or not handler.transaction or handler.batch is not None:
            return None
        return handler, job

    def _refuse_in_child(self) -> None:
        """Raise RuntimeError in a process that a handler has forked, where a lock of the worker may never be free."""
        if os.getpid() != self.handler_call.pid:
            raise RuntimeError("a job can make this call only in the process of its worker")

    def is_cancelled(self, job: ClaimedJob) -> bool:
        """Return whether a job that runs is to be cancelled; ``Job.cancelled``, of a copy of the job, calls this."""
        return any(one._cancelled for execution in self.executions for one in execution.jobs if one.id == job.id)

    def _run_one(self, handler: Handler, job: Job) -> Result:
        try:
            job.args  # noqa: B018 - a payload that cannot be decoded fails here, before the handler is called
            return self.handler_call.returned(job, self.handler_call.call(handler, job))
        except BaseException as error:
            return self.handler_call.judge(handler, job, error)

    def _run_list(self, handler: Handler, jobs: list[Job]) -> list[Result]:
        """Call a batch handler with all jobs whose payload can be decoded."""
        results: list[Result] = []
        decoded: list[Job] = []
        for job in jobs:
            try:
                job.args  # noqa: B018 - as above
                decoded.append(job)
            except PayloadError as error:
                results.append(self.handler_call.judge(handler, job, error))
        if not decoded:
            return results
        try:
            returned = self.handler_call.call(handler, decoded)
            return results + self.handler_call.returned_by_batch(handler, decoded, returned)
        except BaseException as error:
            return results + [self.handler_call.judge(handler, job, error) for job in decoded]
