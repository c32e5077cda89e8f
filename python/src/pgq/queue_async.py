"""The calls of producers and operators: each is one SQL function of pgq."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

import psycopg
from psycopg.pq import Format
from psycopg.rows import AsyncRowFactory, tuple_row

from pgq import handlers, waiting_async
from pgq.calls import NO_ARGS, UNCHANGED, Call, Calls
from pgq.connection import check_async_connection
from pgq.convert import Interval
from pgq.errors import translated
from pgq.handlers import Handlers
from pgq.job import BatchProgress, Enqueued, EnqueuedBatch, Job, Result
from pgq.new_job import AfterFailed, NewJob, OnDuplicate
from pgq.schedule import CatchUp, Overlap

T = TypeVar("T")


class AsyncQueue:
    """
    The queue, through a connection that the caller owns. Each method is one call, in whatever transaction the
    connection is in; none commits.

    Without ``schema`` the search path finds the functions. ``handlers`` supplies the defaults of jobs whose handler is
    registered there, and its hook for what is not in JSON. Raises the errors of pgq, and TypeError for a connection
    that is no psycopg.AsyncConnection.
    """

    def __init__(
        self, conn: psycopg.AsyncConnection[Any], *, schema: str | None = None, handlers: Handlers = handlers.default
    ) -> None:
        check_async_connection(conn)
        self.conn = conn
        self.handlers = handlers
        self._calls = Calls(schema, handlers)

    async def enqueue(
        self,
        kind: str,
        args: Any = NO_ARGS,
        *,
        queue: str | None = None,
        ripe_at: datetime | None = None,
        delay: Interval | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        backoff: Interval | None = None,
        backoff_cap: Interval | None = None,
        dedup: bool | None = None,
        dedup_key: str | None = None,
        on_duplicate: OnDuplicate | None = None,
        context: Mapping[str, Any] | None = None,
        group_key: str | None = None,
        dedup_for: Interval | None = None,
        after: Iterable[int] | None = None,
        after_failed: AfterFailed | None = None,
    ) -> Enqueued:
        """
        Enqueue a job. It is blocked until the jobs whose ids are in ``after`` are over.

        An argument that is None takes the default of the kind's handler, if ``handlers`` has one, or else that of
        pgq_enqueue. Only in ``args`` None is a value, the JSON null. Where OpenTelemetry is set up, the current trace
        becomes the ``context``.
        """
        return await self._run(self._calls.enqueue(locals()))

    async def enqueue_many(self, jobs: Iterable[NewJob]) -> list[Enqueued]:
        """
        Enqueue jobs of any kinds, all or none, and return a result for each, in their order.

        Each job is a mapping whose keys are the arguments of ``enqueue``. Its ``after`` may also have the positions of
        earlier jobs: ``"#1"`` is the first.
        """
        return await self._run(self._calls.enqueue_many(jobs))

    async def enqueue_batch(
        self,
        kind: str,
        args: Any,
        jobs: Iterable[NewJob],
        *,
        queue: str | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        backoff: Interval | None = None,
        backoff_cap: Interval | None = None,
        context: Mapping[str, Any] | None = None,
        group_key: str | None = None,
    ) -> EnqueuedBatch:
        """
        Enqueue jobs, as ``enqueue_many`` does, and one of this kind that comes after all of them, whatever has become
        of each. Its handler learns from ``job.batch()`` how many there were, and which have failed.
        """
        return await self._run(self._calls.enqueue_batch(locals(), jobs))

    async def add_to_batch(self, job: Job, jobs: Iterable[NewJob]) -> list[int]:
        """
        Enqueue jobs, as ``enqueue_many`` does, and add them to the batch of a running job; return their ids.

        The running job is locked until the transaction ends. Raises LeaseLost, and WrongState if no batch waits for it.
        """
        return await self._run(self._calls.add_to_batch(job, jobs))

    async def batch_progress(self, batch_id: int) -> BatchProgress:
        """Return how far a batch has got. Raises JobNotFound for an id that is not that of a batch."""
        return await self._run(self._calls.batch_progress(batch_id))

    async def result(self, job_id: int) -> Result:
        """Return what has become of a job. Raises JobNotFound for an id that no enqueue has returned."""
        (found,) = await self.results([job_id])
        return found

    async def results(self, job_ids: Iterable[int]) -> list[Result]:
        """Return what ``result`` returns for each of these jobs, in their order."""
        return await self._run(self._calls.results(job_ids))

    async def wait(self, job_id: int, timeout: float | timedelta | None = None) -> Result:
        """
        Wait until a job is done, and return its result; the state of one that has left nothing is gone.

        Other transactions must see the job, so no transaction may be open. The connection is notified of the end of
        the job. Behind a pooler it asks instead, up to once a second. Raises JobFailed for a job that is dead or
        cancelled, NotEnded after ``timeout`` (in seconds; None: never), JobNotFound as ``result`` does, and ValueError
        while a transaction is open.
        """
        return await waiting_async.wait(self, job_id, timeout)

    async def wait_many(self, job_ids: Iterable[int], timeout: float | timedelta | None = None) -> list[Result]:
        """
        Wait until all of these jobs have ended, or for ``timeout``, and return the result of each, in their order.

        Raises neither JobFailed nor NotEnded: the state says what has become of a job. All else is as for ``wait``.
        """
        return await waiting_async.wait_many(self, job_ids, timeout)

    async def await_end(self, job_id: int, waiting: bool = True) -> str:
        """
        Declare that this session waits for the end of a job, or no longer does; return the channel to LISTEN to.

        ``wait`` calls it where it can.
        """
        return await self._run(self._calls.await_end(job_id, waiting))

    async def signal(self, job_id: int, name: str, payload: Any = None) -> bool:
        """
        Send a signal to a job, before or after it waits for that; return whether it is the first one of this name.

        Later ones change nothing. Raises JobNotFound, and WrongState for a job that has ended.
        """
        return await self._run(self._calls.signal(job_id, name, payload))

    async def signal_key(
        self, kind: str, dedup_key: str, name: str, payload: Any = None, *, queue: str = "default"
    ) -> int:
        """
        Send a signal to the job that was enqueued with this ``dedup_key``, and return its id.

        If one waits and others run, it is the one that waits. Raises JobNotFound.
        """
        return await self._run(self._calls.signal_key(kind, dedup_key, name, payload, queue))

    async def cancel(self, job_id: int) -> Literal["cancelled", "requested"]:
        """
        Cancel a job that has not ended; return cancelled if it has now, requested if its worker is asked to end it.

        Raises JobNotFound, WrongState, and psycopg.errors.LockNotAvailable while another transaction has the job
        locked.
        """
        return await self._run(self._calls.cancel(job_id))

    async def update(
        self,
        job_id: int,
        *,
        args: Any = UNCHANGED,
        ripe_at: datetime | None = None,
        priority: int | None = None,
        group_key: str | None = None,
    ) -> datetime:
        """
        Change what is given of a waiting job, and return its ``ripe_at``; an empty ``group_key`` takes it out of its
        group.

        Raises JobNotFound, WrongState, DuplicateJob if its twin waits, and psycopg.errors.LockNotAvailable while
        another transaction has the job locked.
        """
        return await self._run(self._calls.update(job_id, args, ripe_at, priority, group_key))

    async def retry(self, job_id: int) -> str:
        """Put a dead or cancelled job back to waiting; return retry or merged. Raises JobNotFound or WrongState."""
        return await self._run(self._calls.retry(job_id))

    async def purge(
        self,
        older_than: Interval = timedelta(days=30),
        outcome: str | None = None,
        queue: str | None = None,
        max_jobs: int = 10_000,
        kind: str | None = None,
    ) -> int:
        """Delete ended jobs, at most ``max_jobs`` of them; return how many."""
        return await self._run(self._calls.purge(older_than, outcome, queue, max_jobs, kind))

    async def purge_jobs(self, job_ids: Iterable[int]) -> int:
        """Delete those of these jobs that have ended; return how many."""
        return await self._run(self._calls.purge_jobs(job_ids))

    async def configure(self, queue: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """
        Set what a queue does otherwise than others, and return all that is set of it; intervals come as text.

        The keys are those of pgq_configure; None resets one, and those that are not given stay as they are.
        """
        return await self._run(self._calls.configure(queue, settings))

    async def pause(self, queue: str, until: datetime | None = None, *, group_key: str | None = None) -> None:
        """
        Keep the jobs of a queue, or of one of its groups, from being claimed until a time, or until ``resume``.

        Running jobs go on. Of two pauses the one that ends later counts.
        """
        await self._run(self._calls.pause(queue, until, group_key))

    async def resume(self, queue: str, *, group_key: str | None = None) -> bool:
        """End the pause of a queue, or of one of its groups; return whether it was paused."""
        return await self._run(self._calls.resume(queue, group_key))

    async def schedule(
        self,
        name: str,
        cron: str,
        kind: str,
        args: Any = NO_ARGS,
        *,
        queue: str | None = None,
        timezone: str | None = None,
        catch_up: CatchUp | None = None,
        overlap: Overlap | None = None,
        jitter: Interval | None = None,
        priority: int | None = None,
        max_retries: int | None = None,
        backoff: Interval | None = None,
        backoff_cap: Interval | None = None,
        group_key: str | None = None,
        source: str | None = None,
    ) -> datetime:
        """
        Enqueue a job each time a cron expression fires; return the next time. A schedule of this name is replaced.

        An argument that is None takes the default of the kind's handler, as in ``enqueue``, or else that of
        pgq_schedule.
        """
        return await self._run(self._calls.schedule(locals()))

    async def unschedule(self, name: str) -> bool:
        """Remove a schedule, but not its jobs; return whether there was one."""
        return await self._run(self._calls.unschedule(name))

    async def pause_schedule(self, name: str) -> bool:
        """Let no slot of a schedule be fired until ``resume_schedule``; return false if it was paused already."""
        return await self._run(self._calls.pause_schedule(name))

    async def resume_schedule(self, name: str) -> datetime:
        """Let a schedule that is paused go on, without the slots of the pause; return the next slot."""
        return await self._run(self._calls.resume_schedule(name))

    async def run_schedule(self, name: str) -> int:
        """Enqueue a job of a schedule now, also while it is paused; return the id of the job."""
        return await self._run(self._calls.run_schedule(name))

    async def grant(self, role: str, privilege: str, queues: Sequence[str] | None = None) -> None:
        """
        Grant a role the privilege producer, worker, admin or reader, in these queues or (None) in all.

        Only the owner of pgq may call it.
        """
        await self._run(self._calls.grant(role, privilege, queues))

    async def revoke(self, role: str, privilege: str, queues: Sequence[str] | None = None) -> None:
        """Take back what ``grant`` gave. Only the owner of pgq may call it."""
        await self._run(self._calls.revoke(role, privilege, queues))

    async def version(self) -> str:
        """Return the version of the SQL."""
        return await self._run(self._calls.version())

    async def _run(self, call: Call[T]) -> T:
        return call.read(await self._rows(call.query, call.params))

    async def _rows(self, query: str, params: Sequence[Any]) -> list[tuple[Any, ...]]:
        with translated(self.conn, query):
            cursor = self._cursor(tuple_row)
            await cursor.execute(query, params)
            return await cursor.fetchall()

    def _cursor(self, row_factory: AsyncRowFactory[T]) -> psycopg.AsyncCursor[T]:
        """
        Return a binary ``psycopg.AsyncCursor``, whatever the connection's cursor_factory: the text form of timestamps
        depends on DateStyle, and some factories take no parameters.
        """
        cursor = psycopg.AsyncCursor(self.conn, row_factory=row_factory)
        cursor.format = Format.BINARY
        return cursor
