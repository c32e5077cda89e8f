"""The call of an async handler, in a task of the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

import psycopg

from pgq import tracing
from pgq.async_job import AsyncJob
from pgq.convert import as_result, qualifier
from pgq.errors import Cancelled, PayloadError, TimedOut, TransactionEnded
from pgq.handlers import Handler, Handlers
from pgq.job import Job
from pgq.queue_async import AsyncQueue
from pgq.worker.async_sessions import AsyncInside, AsyncSessions, AsyncTransaction, LentAsyncConnection
from pgq.worker.event_loop import EventLoop
from pgq.worker.execution import Execution, NotBegun
from pgq.worker.handler_call import Call, lend
from pgq.worker.outcomes import Result
from pgq.worker.settings import Settings
from pgq.worker.steps import HandlerSteps
from pgq.worker.timeout import AGAIN

P = ParamSpec("P")
T = TypeVar("T")
ENDED: Final = "a job can make this call only while its handler runs in a worker"


class AsyncCall(Call):
    """
    The call of an async handler with a job, or with those of a batch.

    It is made on the event loop, in ``task``. Interrupting a handler is cancelling this task: the argument of the
    CancelledError is the exception by which a plain handler would be interrupted, and this is what has failed the job
    if it passes the handler.
    """

    task: asyncio.Task[None] | None = None

    def __init__(
        self,
        handler: Handler,
        jobs: list[Job],
        claimed_at: float,
        *,
        handlers: Handlers,
        settings: Settings,
        event_loop: EventLoop,
        sessions: AsyncSessions,
        unpack: Callable[[Job], None],
    ) -> None:
        super().__init__(handlers, settings.timing.clock)
        self.handler = handler
        self.jobs = jobs
        self._claimed_at = claimed_at
        self._called_at = self._clock()
        self._settings = settings
        self._event_loop = event_loop
        self._sessions = sessions
        self._unpack = unpack
        self._pid = os.getpid()
        # Why the handler was interrupted, and what interrupts it next.
        self._interruption: TimedOut | Cancelled | None = None
        self._timer: asyncio.TimerHandle | None = None
        # What the calls of the job use, of which one runs at a time.
        self._calling_job = asyncio.Lock()
        self._transaction: AsyncTransaction | None = None
        self._session: AsyncInside | None = None
        self._lent: LentAsyncConnection | None = None

    @property
    def execution(self) -> Execution:
        """What runs, for other threads."""
        return Execution(tuple(self.jobs), self.handler, self._called_at, self._claimed_at)

    @property
    def is_to_be_cancelled(self) -> bool:
        """Whether the handler is to be interrupted, and was not yet, because all of its jobs are to be cancelled."""
        return (
            self.handler.interrupt_on_cancel
            and not isinstance(self._interruption, Cancelled)
            and all(job._cancelled for job in self.jobs)
        )

    async def results(self) -> list[Result]:
        """Call the handler; return what became of the jobs. Raises NotBegun."""
        if self.handler.batch is not None:
            return await self._run_list()
        return [await (self._run_in_transaction if self.handler.transaction else self._run_one)(self.jobs[0])]

    def interrupt(self, error: type[TimedOut | Cancelled]) -> None:
        """Cancel the task while the handler runs, and again as long as it goes on. The event loop calls this."""
        if not self.calling or self.task is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._interruption = error()
        self.task.cancel(self._interruption)
        self._timer = asyncio.get_running_loop().call_later(AGAIN, self.interrupt, error)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a call of a job returns, made in another thread; ``AsyncJob`` calls this."""
        self._require_handler()
        async with self._calling_job:
            self._require_handler()
            if self._lent is not None:
                # The handler may use its connection in another task.
                async with self._lent.lock:
                    return await self._event_loop.in_thread(function, *args, **kwargs)
            return await self._event_loop.in_thread(self._with_session, partial(function, *args, **kwargs))

    async def complete(self, job: AsyncJob, conn: psycopg.AsyncConnection[Any], result: Any) -> None:
        """Complete a job through a connection of its handler; ``AsyncJob.complete`` calls this."""
        self._require_handler()
        if self.handler.transaction:
            raise RuntimeError("a handler with transaction=True leaves it to the worker to complete its job")
        queue = AsyncQueue(conn, schema=self._settings.schema, handlers=self._handlers)
        if job._claim.packed:
            # The transaction of the handler, which may stay open, then locks no other job.
            await self._event_loop.in_thread(self._unpack, job._job)
        text = None if result is None else as_result(result, self._handlers.json_hook)
        query = f"SELECT {qualifier(self._settings.schema)}pgq_complete(%s::bigint, %s::bigint, %s::jsonb)"
        await queue._rows(query, [job.id, job.token, text])

    def steps(self, job: Job) -> HandlerSteps:
        """Return what the steps of a job call. Raises RuntimeError for a job that has none."""
        if self.handler.batch is not None:
            raise RuntimeError(f'the handler of kind "{job.kind}" runs batches: a job in a batch has no steps')
        if self._session is None:
            raise RuntimeError(ENDED)
        transaction = self._transaction or self._in(self._session)
        return HandlerSteps(self.execution, job, self._session, transaction, self._handlers, self._clock)

    def _with_session(self, function: Callable[[], T]) -> T:
        """Call a function that may use a session of the job."""
        self._session = self._sessions.take()
        try:
            return function()
        finally:
            self._sessions.give_back(self._session)
            self._session = None

    async def _run_one(self, job: Job) -> Result:
        try:
            job.args  # noqa: B018 - a payload that cannot be decoded fails here, before the handler is called
            return self.returned(job, await self._call([job]))
        except BaseException as error:
            return self.judge(self.handler, job, error)

    async def _run_list(self) -> list[Result]:
        """Call a batch handler with all jobs whose payload can be decoded."""
        results: list[Result] = []
        decoded: list[Job] = []
        for job in self.jobs:
            try:
                job.args  # noqa: B018 - as above
                decoded.append(job)
            except PayloadError as error:
                results.append(self.judge(self.handler, job, error))
        if not decoded:
            return results
        try:
            return results + self.returned_by_batch(self.handler, decoded, await self._call(decoded))
        except BaseException as error:
            return results + [self.judge(self.handler, job, error) for job in decoded]

    async def _run_in_transaction(self, job: Job) -> Result:
        """Let the handler's writes and the completion of its job commit together, or not at all."""
        in_thread, handler = self._event_loop.in_thread, self.handler
        try:
            self._session = session = await self._sessions.open()
        except BaseException as error:
            raise NotBegun([job]) from error
        self._transaction = transaction = self._in(session)
        try:
            await in_thread(transaction.begin, handler, job)
            job.args  # noqa: B018 - as above
            self._lent = session.lend()
            try:
                result = await self._call([job], self._lent)
            finally:
                is_used = await session.take_back(self._event_loop)
            if is_used:
                raise TransactionEnded(f"the handler of {job.kind} left its connection in the middle of something")
            return await in_thread(transaction.end, job, result)
        except BaseException as error:
            return await in_thread(transaction.failed, handler, job, error)
        finally:
            self._sessions.give_back(session)

    def _in(self, session: AsyncInside) -> AsyncTransaction:
        return AsyncTransaction(self, session, self._settings, lambda: None)

    async def _call(self, jobs: list[Job], *connection: LentAsyncConnection) -> Any:
        handler = self.handler
        lent = [AsyncJob._lend(lend(job), self) for job in jobs]
        argument = lent.copy() if handler.batch is not None else lent[0]
        self._called_at = self._clock()
        self.begun = self.calling = True
        if handler.timeout is not None:
            self._timer = asyncio.get_running_loop().call_later(handler.timeout, self.interrupt, TimedOut)
        try:
            if tracing.is_on():
                with tracing.span(handler.kind, jobs):
                    result = await self._handlers.execute_async(handler, argument, *connection)
            else:
                result = await self._handlers.execute_async(handler, argument, *connection)
        except asyncio.CancelledError as error:
            if self._interruption is None:
                raise
            raise self._interruption from error
        finally:
            if os.getpid() != self._pid:
                os._exit(1)
            if self._timer is not None:
                self._timer.cancel()
            for job, copy in zip(jobs, lent, strict=True):
                job._completed = getattr(copy, "_completed", False)
        self.calling = False
        return result

    def _require_handler(self) -> None:
        """Raise RuntimeError in a task that the handler has left behind, and in a process that it has forked."""
        if os.getpid() != self._pid:
            raise RuntimeError("a job can make this call only in the process of its worker")
        if not self.calling:
            raise RuntimeError(ENDED)
