"""The calls of producers and operators: each is one SQL function of pgq."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeVar

import psycopg
from psycopg.pq import Format
from psycopg.rows import RowFactory, tuple_row

from pgq import handlers, tracing, waiting
from pgq.connection import check_connection
from pgq.convert import Interval, check_aware, dumps, given, interval, plain_job, qualifier
from pgq.errors import translated
from pgq.handlers import Handlers
from pgq.job import BatchProgress, Enqueued, EnqueuedBatch, Job, Result
from pgq.schedule import CatchUp, Overlap

R = TypeVar("R")
OnDuplicate = Literal["keep", "replace", "soonest", "error"]
AfterFailed = Literal["cancel", "run", "wait"]

# The arguments of pgq_enqueue, in their order.
TYPES: Final = {
    "kind": "text",
    "args": "jsonb",
    "queue": "text",
    "ripe_at": "timestamptz",
    "delay": "interval",
    "priority": "bigint",
    "max_retries": "bigint",
    "backoff": "interval",
    "backoff_cap": "interval",
    "dedup": "boolean",
    "dedup_key": "text",
    "on_duplicate": "text",
    "context": "jsonb",
    "group_key": "text",
    "dedup_for": "interval",
    "after": "bigint[]",
    "after_failed": "text",
}
# The arguments of pgq_enqueue_batch for its last job, in their order.
BATCH_TYPES: Final = {
    name: TYPES[name]
    for name in (
        "kind", "args", "queue", "priority", "max_retries", "backoff", "backoff_cap", "context", "group_key",
    )
}  # fmt: skip
# The arguments of pgq_schedule, in their order.
SCHEDULE_TYPES: Final = {
    "name": "text",
    "cron": "text",
    "kind": "text",
    "args": "jsonb",
    "queue": "text",
    "timezone": "text",
    "catch_up": "text",
    "overlap": "text",
    "jitter": "interval",
    "priority": "bigint",
    "max_retries": "bigint",
    "backoff": "interval",
    "backoff_cap": "interval",
    "group_key": "text",
    "source": "text",
}
NO_ARGS: Final[dict[str, Any]] = {}
UNCHANGED: Final = object()
# Types of which no value is converted, nor left out.
PASSED_ON: Final = frozenset({str, int, bool})


class Queue:
    """
    The queue, through a connection that the caller owns. Each method is one call, in whatever transaction the
    connection is in; none commits.

    Without ``schema`` the search path finds the functions. ``handlers`` supplies the defaults of jobs whose handler is
    registered there, and its hook for what is not in JSON. Raises the errors of pgq, and TypeError for a connection
    that is no psycopg.Connection.
    """

    def __init__(
        self, conn: psycopg.Connection[Any], *, schema: str | None = None, handlers: Handlers = handlers.default
    ) -> None:
        check_connection(conn)
        self.conn = conn
        self.handlers = handlers
        self._prefix = qualifier(conn, schema)

    def enqueue(
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
        values = locals()
        plain = self._plain({name: values[name] for name in TYPES})
        for name in ("args", "context"):
            if name in plain:
                plain[name] = self._dumps(plain[name])
        named = ", ".join(f"{name} => %({name})s::{TYPES[name]}" for name in plain)
        return Enqueued(*self._row(f"SELECT id, created FROM {self._prefix}pgq_enqueue({named})", plain))

    def enqueue_many(self, jobs: Iterable[Mapping[str, Any]]) -> list[Enqueued]:
        """
        Enqueue jobs of any kinds, all or none, and return a result for each, in their order.

        Each job is a mapping whose keys are the arguments of ``enqueue``. Its ``after`` may also have the positions of
        earlier jobs: ``"#1"`` is the first.
        """
        plain = self._plain if tracing.is_on() else self._copied
        rows = self._rows(
            f"SELECT id, created FROM {self._prefix}pgq_enqueue_many(%s::jsonb) ORDER BY n",
            [self._dumps([plain(job) for job in jobs])],
        )
        return list(map(Enqueued._make, rows))

    def enqueue_batch(
        self,
        kind: str,
        args: Any,
        jobs: Iterable[Mapping[str, Any]],
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
        values = locals()
        plain = self._plain({name: values[name] for name in BATCH_TYPES})
        for name in ("args", "context"):
            if name in plain:
                plain[name] = self._dumps(plain[name])
        plain = {name: plain[name] for name in plain if name in BATCH_TYPES}
        named = ", ".join(f"{name} => %({name})s::{BATCH_TYPES[name]}" for name in plain)
        plain["jobs"] = self._dumps([self._plain(job) for job in jobs])
        query = f"SELECT id, ids FROM {self._prefix}pgq_enqueue_batch({named}, jobs => %(jobs)s::jsonb)"
        return EnqueuedBatch(*self._row(query, plain))

    def add_to_batch(self, job: Job, jobs: Iterable[Mapping[str, Any]]) -> list[int]:
        """
        Enqueue jobs, as ``enqueue_many`` does, and add them to the batch of a running job; return their ids.

        The running job is locked until the transaction ends. Raises LeaseLost, and WrongState if no batch waits for it.
        """
        ids: list[int] = self._row(
            f"SELECT {self._prefix}pgq_add_to_batch(%s::bigint, %s::bigint, %s::jsonb)",
            [job.id, job.token, self._dumps([self._plain(added) for added in jobs])],
        )[0]
        return ids

    def batch_progress(self, batch_id: int) -> BatchProgress:
        """Return how far a batch has got. Raises JobNotFound for an id that is not that of a batch."""
        query = f"SELECT jobs, ended, failed, failed_ids FROM {self._prefix}pgq_batch_progress(%s::bigint)"
        return BatchProgress(*self._row(query, [batch_id]))

    def result(self, job_id: int) -> Result:
        """Return what has become of a job. Raises JobNotFound for an id that no enqueue has returned."""
        (found,) = self.results([job_id])
        return found

    def results(self, job_ids: Iterable[int]) -> list[Result]:
        """Return what ``result`` returns for each of these jobs, in their order."""
        rows = self._rows(
            "SELECT i.id, r.state, r.result::text, r.error, r.ended_at "
            f"FROM unnest(%s::bigint[]) WITH ORDINALITY AS i (id, n), {self._prefix}pgq_result(i.id) AS r ORDER BY i.n",
            [list(job_ids)],
        )
        return [Result(*row) for row in rows]

    def wait(self, job_id: int, timeout: float | timedelta | None = None) -> Result:
        """
        Wait until a job is done, and return its result; the state of one that has left nothing is gone.

        Other transactions must see the job, so no transaction may be open. The connection is notified of the end of
        the job. Behind a pooler it asks instead, up to once a second. Raises JobFailed for a job that is dead or
        cancelled, NotEnded after ``timeout`` (in seconds; None: never), JobNotFound as ``result`` does, and ValueError
        while a transaction is open.
        """
        return waiting.wait(self, job_id, timeout)

    def wait_many(self, job_ids: Iterable[int], timeout: float | timedelta | None = None) -> list[Result]:
        """
        Wait until all of these jobs have ended, or for ``timeout``, and return the result of each, in their order.

        Raises neither JobFailed nor NotEnded: the state says what has become of a job. All else is as for ``wait``.
        """
        return waiting.wait_many(self, job_ids, timeout)

    def await_end(self, job_id: int, waiting: bool = True) -> str:
        """
        Declare that this session waits for the end of a job, or no longer does; return the channel to LISTEN to.

        ``wait`` calls it where it can.
        """
        return str(self._row(f"SELECT {self._prefix}pgq_await(%s::bigint, %s::boolean)", [job_id, waiting])[0])

    def signal(self, job_id: int, name: str, payload: Any = None) -> bool:
        """
        Send a signal to a job, before or after it waits for that; return whether it is the first one of this name.

        Later ones change nothing. Raises JobNotFound, and WrongState for a job that has ended.
        """
        query = f"SELECT {self._prefix}pgq_signal(%s::bigint, %s::text, %s::jsonb)"
        return bool(self._row(query, [job_id, name, None if payload is None else self._dumps(payload)])[0])

    def signal_key(self, kind: str, dedup_key: str, name: str, payload: Any = None, *, queue: str = "default") -> int:
        """
        Send a signal to the job that was enqueued with this ``dedup_key``, and return its id.

        If one waits and others run, it is the one that waits. Raises JobNotFound.
        """
        query = f"SELECT {self._prefix}pgq_signal_key(%s::text, %s::text, %s::text, %s::text, %s::jsonb)"
        encoded = None if payload is None else self._dumps(payload)
        return int(self._row(query, [queue, kind, dedup_key, name, encoded])[0])

    def cancel(self, job_id: int) -> Literal["cancelled", "requested"]:
        """
        Cancel a job that has not ended; return cancelled if it has now, requested if its worker is asked to end it.

        Raises JobNotFound, WrongState, and psycopg.errors.LockNotAvailable while another transaction has the job
        locked.
        """
        done: Literal["cancelled", "requested"] = self._row(f"SELECT {self._prefix}pgq_cancel(%s::bigint)", [job_id])[0]
        return done

    def update(
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
        if ripe_at is not None:
            check_aware("ripe_at", ripe_at)
        now: datetime = self._row(
            f"SELECT {self._prefix}pgq_update(%s::bigint, %s::jsonb, %s::timestamptz, %s::bigint, %s::text)",
            [job_id, None if args is UNCHANGED else self._dumps(args), ripe_at, priority, group_key],
        )[0]
        return now

    def retry(self, job_id: int) -> str:
        """Put a dead or cancelled job back to waiting; return retry or merged. Raises JobNotFound or WrongState."""
        return str(self._row(f"SELECT {self._prefix}pgq_retry(%s::bigint)", [job_id])[0])

    def purge(
        self,
        older_than: Interval = timedelta(days=30),
        outcome: str | None = None,
        queue: str | None = None,
        max_jobs: int = 10_000,
        kind: str | None = None,
    ) -> int:
        """Delete ended jobs, at most ``max_jobs`` of them; return how many."""
        return int(
            self._row(
                f"SELECT {self._prefix}pgq_purge(%s::interval, %s::text, %s::text, %s::bigint, %s::text)",
                [interval(older_than), outcome, queue, max_jobs, kind],
            )[0]
        )

    def configure(self, queue: str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """
        Set what a queue does otherwise than others, and return all that is set of it; intervals come as text.

        The keys are those of pgq_configure; None resets one, and those that are not given stay as they are.
        """
        plain = plain_job(settings or {})
        row = self._row(f"SELECT {self._prefix}pgq_configure(%s::text, %s::jsonb)::text", [queue, self._dumps(plain)])
        set_now: dict[str, Any] = json.loads(row[0])
        return set_now

    def pause(self, queue: str, until: datetime | None = None, *, group_key: str | None = None) -> None:
        """
        Keep the jobs of a queue, or of one of its groups, from being claimed until a time, or until ``resume``.

        Running jobs go on. Of two pauses the one that ends later counts.
        """
        if until is not None:
            check_aware("until", until)
        self._row(f"SELECT {self._prefix}pgq_pause(%s::text, %s::timestamptz, %s::text)", [queue, until, group_key])

    def resume(self, queue: str, *, group_key: str | None = None) -> bool:
        """End the pause of a queue, or of one of its groups; return whether it was paused."""
        return bool(self._row(f"SELECT {self._prefix}pgq_resume(%s::text, %s::text)", [queue, group_key])[0])

    def schedule(
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
        values = locals()
        job = {field: values[field] for field in SCHEDULE_TYPES}
        plain = plain_job({**self.handlers.defaults(job), **given(job)})
        plain["args"] = self._dumps(plain["args"])
        named = ", ".join(f"{field} => %({field})s::{SCHEDULE_TYPES[field]}" for field in plain)
        next_at: datetime = self._row(f"SELECT {self._prefix}pgq_schedule({named})", plain)[0]
        return next_at

    def unschedule(self, name: str) -> bool:
        """Remove a schedule, but not its jobs; return whether there was one."""
        return bool(self._row(f"SELECT {self._prefix}pgq_unschedule(%s::text)", [name])[0])

    def pause_schedule(self, name: str) -> bool:
        """Let no slot of a schedule be fired until ``resume_schedule``; return false if it was paused already."""
        return bool(self._row(f"SELECT {self._prefix}pgq_pause_schedule(%s::text)", [name])[0])

    def resume_schedule(self, name: str) -> datetime:
        """Let a schedule that is paused go on, without the slots of the pause; return the next slot."""
        next_at: datetime = self._row(f"SELECT {self._prefix}pgq_resume_schedule(%s::text)", [name])[0]
        return next_at

    def run_schedule(self, name: str) -> int:
        """Enqueue a job of a schedule now, also while it is paused; return the id of the job."""
        return int(self._row(f"SELECT {self._prefix}pgq_run_schedule(%s::text)", [name])[0])

    def grant(self, role: str, privilege: str, queues: Sequence[str] | None = None) -> None:
        """
        Grant a role the privilege producer, worker, admin or reader, in these queues or (None) in all.

        Only the owner of pgq may call it.
        """
        self._row(
            f"SELECT {self._prefix}pgq_grant(%s::text, %s::text, %s::text[])",
            [role, privilege, queues and list(queues)],
        )

    def revoke(self, role: str, privilege: str, queues: Sequence[str] | None = None) -> None:
        """Take back what ``grant`` gave. Only the owner of pgq may call it."""
        self._row(
            f"SELECT {self._prefix}pgq_revoke(%s::text, %s::text, %s::text[])",
            [role, privilege, queues and list(queues)],
        )

    def version(self) -> str:
        """Return the version of the SQL."""
        return str(self._row(f"SELECT {self._prefix}pgq_version()", [])[0])

    def _plain(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Return the given values of a job, and the defaults of its handler for the rest."""
        plain = plain_job({**self.handlers.defaults(job), **given(job)})
        if tracing.is_on() and "context" not in plain and (context := tracing.current()):
            plain["context"] = context
        return plain

    def _copied(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``_plain`` returns without a trace: a mere copy of most jobs, in a fifth of the time."""
        if type(job) is not dict or self.handlers.defaults(job):
            return self._plain(job)
        for name, value in job.items():
            if name != "args" and type(value) not in PASSED_ON:
                return self._plain(job)
        return job.copy()

    def _dumps(self, value: Any) -> str:
        return dumps(value, self.handlers.json_hook)

    def _rows(self, query: str, params: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with translated(self.conn, query), self._cursor(tuple_row) as cursor:
            cursor.execute(query, params)
            return cursor.fetchall()

    def _row(self, query: str, params: Sequence[Any] | Mapping[str, Any]) -> tuple[Any, ...]:
        (row,) = self._rows(query, params)
        return row

    def _cursor(self, row_factory: RowFactory[R]) -> psycopg.Cursor[R]:
        """
        Return a binary ``psycopg.Cursor``, whatever the connection's cursor_factory: the text form of timestamps
        depends on DateStyle, and some factories take no parameters.
        """
        cursor = psycopg.Cursor(self.conn, row_factory=row_factory)
        cursor.format = Format.BINARY
        return cursor
