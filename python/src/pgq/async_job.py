"""A claimed job as an async handler has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from inspect import isawaitable
from typing import Any, ParamSpec, Protocol, TypeVar

import psycopg

from pgq.job import BatchProgress, ClaimedJob, Enqueued, Job, Result

P = ParamSpec("P")
T = TypeVar("T")


class Caller(Protocol):
    """What a worker lends to the job of an async handler."""

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Awaitable[T]: ...

    def complete(self, job: AsyncJob, conn: psycopg.AsyncConnection[Any], result: Any) -> Awaitable[None]: ...


class AsyncJob(ClaimedJob):
    """
    A claimed job, for an async handler: it has the values of a Job, and what Job calls is awaited here.

    One call runs at a time; another one of the same job waits for it. They raise what those of Job raise, for the same
    reasons.
    """

    __slots__ = ("_caller", "_job")

    @classmethod
    def _lend(cls, job: Job, caller: Caller) -> AsyncJob:
        """Return an object for a job, for its handler, which may do anything to it."""
        lent = cls.__new__(cls)
        lent._set(job, caller)
        lent.id, lent.kind, lent.payload, lent.attempt = job.id, job.kind, job.payload, job.attempt
        lent._claim, lent._index, lent._args, lent._completed = job._claim, job._index, job._args, False
        return lent

    async def extend(self, lease: timedelta | None = None) -> datetime:
        """Let the lease end no sooner than ``lease`` from now, as ``Job.extend`` does, and return its end."""
        return await self._call(Job.extend, lease)

    async def complete(self, conn: psycopg.AsyncConnection[Any], result: Any = None) -> None:
        """Complete the job within a transaction of the handler's own, as ``Job.complete`` does."""
        self._require_runtime()
        await self._caller.complete(self, conn, result)
        self._completed = True

    async def batch(self) -> BatchProgress:
        """Return the numbers of the batch whose last job this is, as ``Job.batch`` does."""
        return await self._call(Job.batch)

    @property
    def state(self) -> Any:
        """What the handler has saved last, in this attempt or an earlier one; None: nothing."""
        return self._require_job().state

    async def save(self, state: Any) -> None:
        """Keep a value, as JSON, for the next attempts, as ``Job.save`` does."""
        await self._call(Job.save, state)

    async def progress(self, done: float, note: str = "") -> None:
        """Tell how much is done, from 0 to 1, as ``Job.progress`` does."""
        await self._call(Job.progress, done, note)

    async def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """
        Return the result of a step, as ``Job.step`` does. What an async function returns is awaited; any other one
        keeps the event loop from all other handlers while it runs.
        """
        job = self._require_job()
        run = job._run()
        name = run.use(name, "step")
        if name in run.steps:
            return run.steps[name]
        await self._call(Job._check_steps)
        with run.running(name):
            result = function(*args, **kwargs)
            if isawaitable(result):
                result = await result
        return await self._call(Job._keep, name, lambda _: result)

    @property
    def step_key(self) -> str:
        """A key for calls to the outside that is the same whenever this step is tried. Raises RuntimeError outside."""
        return self._require_job().step_key

    async def enqueue(self, kind: str, *args: Any, name: str | None = None, **options: Any) -> Enqueued:
        """Enqueue a job as a step, as ``Job.enqueue`` does."""
        return await self._call(Job.enqueue, kind, *args, name=name, **options)

    async def sleep(self, delay: timedelta, name: str | None = None) -> None:
        """Let the handler go on after a delay, in a new attempt that does not count, as ``Job.sleep`` does."""
        await self._call(Job.sleep, delay, name)

    async def wait_for(self, job_ids: Iterable[int], name: str | None = None) -> list[Result]:
        """Return the results of jobs once all have ended, as ``Job.wait_for`` does."""
        return await self._call(Job.wait_for, job_ids, name)

    async def wait_signal(self, name: str, timeout: timedelta | None = None) -> Any:
        """Return the payload of a signal once the job has got it, as ``Job.wait_signal`` does."""
        return await self._call(Job.wait_signal, name, timeout)

    def _set(self, job: Job, caller: Caller) -> None:
        """Set the job whose calls these are, and what makes them."""
        self._job, self._caller = job, caller

    def _require_job(self) -> Job:
        self._require_runtime()
        return self._job

    async def _call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        job = self._require_job()
        return await self._caller.call(function, job, *args, **kwargs)
