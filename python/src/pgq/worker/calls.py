"""The calls of workers to the SQL functions of pgq."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg.pq import Escaping
from psycopg.rows import args_row

from pgq import handlers
from pgq.convert import Interval, as_result, check_aware, held, interval
from pgq.errors import translated
from pgq.handlers import Handlers
from pgq.job import FIELDS, Failure, Job, Remaining, SignalWait
from pgq.queue import Queue

# JSON comes as text: a value that Python cannot decode must not cost the whole batch.
AS_TEXT: Final = {"payload": "args::text", "context": "context::text", "saved": "saved::text"}
# The default of pgq_claim.
MAX_BYTES: Final = 16 * 1024 * 1024
TRANSACTION: Final = "pg_catalog.pg_current_xact_id()::text"
# Until the end of the transaction; a shorter limit, such as that of the database, stays.
LIMIT_IDLE: Final = (
    "pg_catalog.set_config('idle_in_transaction_session_timeout', ceil(1000 * extract(epoch FROM least(make_interval("
    "secs => {}), nullif(current_setting('idle_in_transaction_session_timeout')::interval, '0'))))::text, true)"
)
# The longest of PostgreSQL's timeouts, in milliseconds.
MAX_TIMEOUT: Final = 2**31
COLUMNS: Final = ", ".join(AS_TEXT.get(name, name) for name in FIELDS)


class WorkerQueue(Queue):
    """
    The queue, with the calls of a worker besides those of producers and operators.

    ``pgq.Worker`` uses it; so can a loop of an application's own. As with Queue, nothing here commits.
    """

    def __init__(
        self, conn: psycopg.Connection[Any], *, schema: str | None = None, handlers: Handlers = handlers.default
    ) -> None:
        super().__init__(conn, schema=schema, handlers=handlers)
        self._prefix = self._calls.prefix
        self._claim = f"{self._prefix}pgq_claim(%s::text[], %s::bigint, %s::interval, %s::text, %s::bigint)"

    def claim(
        self,
        queues: Sequence[str] = ("default",),
        max_jobs: int = 1,
        lease: Interval | None = None,
        worker: str | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> list[Job]:
        """
        Claim ripe jobs, by priority, then in the order of ``queues``. The list is empty when no job is ripe.

        No further job is taken once the arguments of those taken reach ``max_bytes`` in the database. A lease that is
        None is the longest that these queues have among their settings, or else 5 minutes.
        """
        return self._jobs(
            f"SELECT {COLUMNS} FROM {self._claim}", [list(queues), max_jobs, interval(lease), worker, max_bytes]
        )

    def idle(self, queues: Sequence[str] = ("default",), idle: bool = True, *, pass_on: bool = False) -> list[str]:
        """
        Declare that this session is about to sleep, or is awake again; return the channels to LISTEN to.

        An empty list of queues stands for all queues. With ``pass_on`` a session that is awake again wakes another one,
        for a job that it cannot claim itself.
        """
        rows = self._rows(
            f"SELECT {self._prefix}pgq_idle(%s::text[], %s::boolean, %s::boolean)", [list(queues), idle, pass_on]
        )
        return [row[0] for row in rows]

    def ripe_in(self, queues: Sequence[str] = ("default",)) -> timedelta | None:
        """Return the time until the next job of these queues is ripe (0 or less: one is ripe; None: none waits)."""
        ripe_in: timedelta | None = self._row(f"SELECT {self._prefix}pgq_ripe_in(%s::text[])", [list(queues)])[0]
        return ripe_in

    def queues_to_serve(self, prefixes: Sequence[str] = ("",)) -> list[str]:
        """Return the queues in which jobs wait and that this role may use as worker, those with these prefixes."""
        return [row[0] for row in self._rows(f"SELECT {self._prefix}pgq_queues_to_serve(%s::text[])", [list(prefixes)])]

    def remaining(self, queues: Sequence[str] = ("default",), kinds: Sequence[str] | None = None) -> Remaining:
        """Return what is left to do in these queues; of the jobs that wait, only those of these kinds (None: all)."""
        return Remaining(
            *self._row(
                f"SELECT ripe_in, running FROM {self._prefix}pgq_remaining(%s::text[], %s::text[])",
                [list(queues), None if kinds is None else list(kinds)],
            )
        )

    def register(
        self,
        worker: str,
        queues: Sequence[str] = ("default",),
        host: str | None = None,
        pid: int | None = None,
        kinds: Sequence[str] | None = None,
        shares: bool = False,
    ) -> None:
        """
        Register a worker; it is present until this connection closes. ``kinds`` are those that it has handlers for.

        ``shares`` says that its process also serves other databases, whose jobs would be lost together with those here.
        Raises WrongState while another session has the name.
        """
        self._row(
            f"SELECT {self._prefix}pgq_register(%s::text, %s::text[], %s::text, %s::bigint, %s::text[], %s::boolean)",
            [worker, list(queues), host, pid, None if kinds is None else list(kinds), shares],
        )

    def unregister(self, worker: str) -> bool:
        """End the registration; return whether this connection had registered the worker."""
        return bool(self._row(f"SELECT {self._prefix}pgq_unregister(%s::text)", [worker])[0])

    def reconcile(self, worker: str, jobs: Sequence[Job]) -> int:
        """
        Give back the jobs that were claimed under the name of a worker, except these; return how many.

        Raises WrongState unless this connection has registered the worker.
        """
        query = f"SELECT {self._prefix}pgq_reconcile(%s::text, %s::bigint[], %s::bigint[])"
        return int(self._row(query, [worker, *held(jobs)])[0])

    def hold(self, job: Job) -> str:
        """Lock the job until the end of the transaction, and return the transaction's id. Raises LeaseLost."""
        query = f"SELECT pg_current_xact_id()::text, {self._prefix}pgq_hold(%s::bigint, %s::bigint)"
        return str(self._row(query, [job.id, job.token])[0])

    def hold_many(self, jobs: Sequence[Job]) -> set[int]:
        """Lock the jobs whose lease is not lost until the end of the transaction, and return their ids."""
        locked = self._rows(f"SELECT {self._prefix}pgq_hold_many(%s::bigint[], %s::bigint[])", held(jobs))
        return {row[0] for row in locked}

    def complete(self, job: Job, result: Any = None, *, note: str | None = None) -> None:
        """
        Complete the job. A result other than None is kept; the note, as the newest of the job's errors.

        Raises LeaseLost, and TypeError, ValueError or psycopg's error for a result that cannot be stored.
        """
        self._complete_json(job, None if result is None else as_result(result, self.handlers.json_hook), note)

    def _complete_json(self, job: Job, result: str | None, note: str | None = None) -> None:
        """Complete the job; the result is JSON text. Raises LeaseLost."""
        values: list[Any] = [job.id, job.token, result]
        if note is not None:
            values.append(note)
        more = "" if note is None else ", note => %s::text"
        self._row(f"SELECT {self._prefix}pgq_complete(%s::bigint, %s::bigint, %s::jsonb{more})", values)

    def _complete_in(self, transaction: str, job: Job, result: str | None, note: str | None = None) -> None:
        """
        Complete the job, but only in the transaction with this id.

        Raises LeaseLost, and psycopg.errors.InvalidTransactionState in any other transaction.
        """
        self._row(
            f"SELECT {self._prefix}pgq_complete(%s::bigint, %s::bigint, %s::jsonb, %s::text, %s::text)",
            [job.id, job.token, result, note, transaction],
        )

    def holding(self, job: Job, idle_limit: float | None = None) -> str:
        """
        Return a statement that holds a job, and returns the id of the transaction; it raises LeaseLost.

        With ``idle_limit`` the server ends the session when the transaction is idle for so many seconds.
        """
        limit = ""
        if idle_limit is not None and 1000 * idle_limit < MAX_TIMEOUT:
            limit = f", {LIMIT_IDLE.format(float(idle_limit))}"
        return f"SELECT {TRANSACTION}, {self._prefix}pgq_hold({job.id}, {job.token}){limit}"

    def holding_many(self, jobs: Sequence[Job]) -> str:
        """Return a statement that holds jobs, and returns the id of the transaction and the ids with spaces between."""
        ids, tokens = held(jobs)
        held_ids = f"ARRAY(SELECT {self._prefix}pgq_hold_many('{ids}', '{tokens}'))"
        return f"SELECT {TRANSACTION}, pg_catalog.array_to_string({held_ids}, ' ')"

    def completing(self, transaction: str, job: Job, result: str | None, note: str | None) -> str:
        """
        Return a statement that completes the job as ``_complete_in`` does; result and note are ASCII.

        libpq quotes them, because a handler may have given the connection another adapter of text.
        """
        kept = "NULL" if result is None else self._quoted(result)
        said = "NULL" if note is None else self._quoted(note)
        return f"SELECT {self._prefix}pgq_complete({job.id}, {job.token}, {kept}, {said}, '{transaction}')"

    def _quoted(self, text: str) -> str:
        return bytes(Escaping(self.conn.pgconn).escape_literal(text.encode("ascii"))).decode("ascii")

    def committed(self, transaction: str, job: Job) -> str:
        """Return a statement that returns whether this transaction, which completes the job, has committed."""
        return (
            f"SELECT pg_catalog.pg_xact_status('{transaction}') = 'committed' AND NOT EXISTS "
            f"(SELECT FROM {self._prefix}pgq_hold_many('{{{job.id}}}', '{{{job.token}}}'))"
        )

    def complete_many(self, jobs: Sequence[Job]) -> set[int]:
        """Complete the jobs whose lease is not lost, and return their ids."""
        ended = self._rows(f"SELECT {self._prefix}pgq_complete_many(%s::bigint[], %s::bigint[])", held(jobs))
        return {row[0] for row in ended}

    def fail(
        self, job: Job, error: str | None = None, retry_in: Interval | None = None, *, retry: bool = True
    ) -> Failure:
        """End the attempt as failed, with ``retry=False`` for good. Raises LeaseLost."""
        return Failure(
            *self._row(
                f"SELECT outcome, ripe_at FROM {self._prefix}pgq_fail(%s::bigint, %s::bigint, %s::text, %s::interval, "
                "%s::boolean)",
                [job.id, job.token, error, interval(retry_in), retry],
            )
        )

    def cancel_claimed(self, job: Job, reason: str | None = None) -> None:
        """Cancel a claimed job, which is kept with the reason. Raises LeaseLost."""
        self._row(
            f"SELECT {self._prefix}pgq_cancel_claimed(%s::bigint, %s::bigint, %s::text)", [job.id, job.token, reason]
        )

    def cancel_requested(self, jobs: Sequence[Job]) -> set[int]:
        """Return the ids of those claimed jobs that an operator has asked to cancel. It is cheap, and never waits."""
        rows = self._rows(f"SELECT {self._prefix}pgq_cancel_requested(%s::bigint[], %s::bigint[])", held(jobs))
        return {row[0] for row in rows}

    def extend(self, job: Job, lease: Interval = timedelta(minutes=5)) -> datetime:
        """Let the lease end no sooner than ``lease`` from now, and return its end. Raises LeaseLost."""
        query = f"SELECT {self._prefix}pgq_extend(%s::bigint, %s::bigint, %s::interval)"
        until: datetime = self._row(query, [job.id, job.token, interval(lease)])[0]
        return until

    def snooze(
        self, job: Job, until: datetime | None = None, delay: Interval | None = None, *, whole_group: bool = False
    ) -> str:
        """
        Put the job back until a time or for a while; the attempt does not count.

        With ``whole_group``, no other job of its group is claimed before that time either.
        Return snoozed or merged, or cancelled if an operator has asked for that. Raises LeaseLost.
        """
        if until is not None:
            check_aware("until", until)
        return str(
            self._row(
                f"SELECT {self._prefix}pgq_snooze(%s::bigint, %s::bigint, %s::timestamptz, %s::interval, %s)",
                [job.id, job.token, until, interval(delay), whole_group],
            )[0]
        )

    def save(self, job: Job, saved: Any) -> None:
        """Keep a value, as JSON, with a running job for its next attempts (None: nothing). Raises LeaseLost."""
        self.save_json(job, None if saved is None else self.encode_saved(saved))

    def encode_saved(self, saved: Any) -> str:
        """Return what is to be saved as JSON text. Raises TypeError or ValueError."""
        return as_result(saved, self.handlers.json_hook)

    def save_json(self, job: Job, saved: str | None, transaction: str | None = None) -> None:
        """
        Keep JSON text with a running job, and if a transaction is given, only in the one with this id.

        Raises LeaseLost, and psycopg.errors.InvalidTransactionState in any other transaction.
        """
        query = f"SELECT {self._prefix}pgq_save(%s::bigint, %s::bigint, %s::jsonb, %s::text)"
        self._row(query, [job.id, job.token, saved, transaction])

    def saving(self, job: Job, saved: str, transaction: str | None = None) -> str:
        """Return a statement that saves as ``save_json`` does; the text is ASCII."""
        only_in = "" if transaction is None else f", '{transaction}'"
        return f"SELECT {self._prefix}pgq_save({job.id}, {job.token}, {self._quoted(saved)}{only_in})"

    def wait_signal(self, job: Job, name: str, timeout: Interval | None = None) -> SignalWait:
        """
        Return the signal if the job has got it; otherwise put the job back until it gets it, or the timeout is over.

        The attempt does not count. The timeout begins with the first call for the job and this name. With 0 the call
        only reads the signal. Raises LeaseLost.
        """
        query = (
            f"SELECT outcome, payload::text, until FROM {self._prefix}pgq_wait_signal("
            "%s::bigint, %s::bigint, %s::text, %s::interval)"
        )
        return SignalWait(*self._row(query, [job.id, job.token, name, interval(timeout)]))

    def decline(self, job: Job) -> Failure:
        """
        Put back a job for whose kind this worker has no handler, for longer each time; the attempt does not count.

        The outcome is declined, merged, or cancelled if an operator has asked for that. Raises LeaseLost.
        """
        return Failure(
            *self._row(
                f"SELECT outcome, ripe_at FROM {self._prefix}pgq_decline(%s::bigint, %s::bigint)", [job.id, job.token]
            )
        )

    def release(self, job: Job) -> str:
        """
        Put the job back at its old place; the attempt does not count.

        Return released or merged, or cancelled if an operator has asked for that. Raises LeaseLost.
        """
        return str(self._row(f"SELECT {self._prefix}pgq_release(%s::bigint, %s::bigint)", [job.id, job.token])[0])

    def _row(self, query: str, params: Sequence[Any]) -> tuple[Any, ...]:
        (row,) = self._rows(query, params)
        return row

    def _jobs(self, query: str, params: Sequence[Any]) -> list[Job]:
        with translated(self.conn, query), self._cursor(args_row(Job)) as cursor:
            cursor.execute(query, params)
            return cursor.fetchall()
