"""All calls of the driver to the SQL functions of pgq, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeVar

import psycopg
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import RowFactory, args_row, tuple_row

from pgq import handlers, tracing
from pgq.convert import Interval, as_result, check_aware, dumps, given, held, interval, plain_job, qualifier
from pgq.errors import translated
from pgq.handlers import Handlers
from pgq.job import Enqueued, Failure, Job, Remaining

R = TypeVar("R")
OnDuplicate = Literal["keep", "replace", "soonest", "error"]

TYPES: Final = {
    "kind": "text",
    "args": "jsonb",
    "queue": "text",
    "ripe_at": "timestamptz",
    "delay": "interval",
    "priority": "integer",
    "max_retries": "integer",
    "backoff": "interval",
    "backoff_cap": "interval",
    "dedup": "boolean",
    "dedup_key": "text",
    "on_duplicate": "text",
    "context": "jsonb",
}
NO_ARGS: Final[dict[str, Any]] = {}

# The fields of a Job, in their order. The arguments as text: what Python cannot decode must not cost the whole batch.
JOB: Final = (
    "id, token, queue, kind, args::text AS payload, attempt, max_retries, priority, ripe_at, enqueued_at, lease_until, "
    "context::text"
)


class Queue:
    """
    The queue, seen through a connection of the caller's: each method is one call, in whatever transaction the
    connection is in. Nothing here commits.

    Without ``schema`` the functions are found by the search path. ``handlers`` are asked for what need not be said when
    a job is enqueued. Raises the classes of pgq.errors.
    """

    def __init__(
        self, conn: psycopg.Connection[Any], *, schema: str | None = None, handlers: Handlers = handlers.default
    ) -> None:
        self.conn = conn
        self.handlers = handlers
        self._at = qualifier(conn, schema)
        self._claim = f"{self._at}pgq_claim(%s::text[], %s::integer, %s::interval, %s::text)"

    # For producers.

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
    ) -> Enqueued:
        """
        Enqueue a job. None means the default of its handler, if that is registered in this process, or of pgq_enqueue;
        as ``args`` it is the JSON null. Where OpenTelemetry is installed, the trace goes along as the ``context``.
        """
        job = {
            "kind": kind,
            "args": args,
            "queue": queue,
            "ripe_at": ripe_at,
            "delay": delay,
            "priority": priority,
            "max_retries": max_retries,
            "backoff": backoff,
            "backoff_cap": backoff_cap,
            "dedup": dedup,
            "dedup_key": dedup_key,
            "on_duplicate": on_duplicate,
            "context": context,
        }
        plain = self._plain(job)
        for name in ("args", "context"):
            if name in plain:
                plain[name] = dumps(plain[name])
        named = ", ".join(f"{name} => %({name})s::{TYPES[name]}" for name in plain)
        return Enqueued(*self._row(f"SELECT id, created FROM {self._at}pgq_enqueue({named})", plain))

    def enqueue_many(self, jobs: Iterable[Mapping[str, Any]]) -> list[Enqueued]:
        """
        Enqueue jobs of any kinds, all or none; the answers are in the order of the jobs.

        Each job is a mapping with the arguments of ``enqueue`` as its keys.
        """
        answers = self._rows(
            f"SELECT id, created FROM {self._at}pgq_enqueue_many(%s::jsonb) ORDER BY n",
            [dumps([self._plain(job) for job in jobs])],
        )
        return [Enqueued(*answer) for answer in answers]

    def _plain(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """What is given of a job, and the defaults for the rest that are known here."""
        plain = plain_job({**self.handlers.defaults(job.get("kind")), **given(job)})
        if tracing.is_on() and "context" not in plain and (context := tracing.current()):
            plain["context"] = context
        return plain

    # For workers.

    def claim(
        self,
        queues: Sequence[str] = ("default",),
        max_jobs: int = 1,
        lease: Interval = timedelta(minutes=5),
        worker: str | None = None,
    ) -> list[Job]:
        """Take ripe jobs, the first of the list to be done first; the list is empty when nothing is ripe."""
        return self._jobs(f"SELECT {JOB} FROM {self._claim}", [list(queues), max_jobs, interval(lease), worker])

    def claim_only(self, queues: Sequence[str], max_jobs: int, lease: Interval, worker: str | None) -> list[Job]:
        """
        Claim in a transaction that does nothing else, and whose commit need not be on disk.

        A crash of the server may forget the claim: then the job is ripe again, and its attempt not counted. Raises
        RuntimeError inside a transaction.
        """
        if self.conn.info.transaction_status != TransactionStatus.IDLE or not self.conn.autocommit:
            raise RuntimeError("a claim on its own takes a connection in autocommit mode, outside a transaction")
        return self._jobs(
            f"SELECT {JOB} FROM set_config('synchronous_commit', 'off', true) CROSS JOIN LATERAL {self._claim}",
            [list(queues), max_jobs, interval(lease), worker],
        )

    def complete_and_claim(
        self, jobs: Sequence[Job], queues: Sequence[str], max_jobs: int, lease: Interval, worker: str | None
    ) -> tuple[set[int], list[Job]]:
        """
        ``complete_many`` and ``claim`` in one statement: one way to the server and back, and one commit.

        The answer is the ids of the jobs that were not held any more, and the jobs that were claimed.
        """
        ids, tokens = held(jobs)
        rows = self._rows(
            "SELECT ended.lost, job.* FROM (SELECT ARRAY(SELECT unnest(%s::bigint[]) "
            f"EXCEPT SELECT {self._at}pgq_complete_many(%s::bigint[], %s::bigint[])) AS lost) AS ended "
            f"LEFT JOIN LATERAL (SELECT {JOB} FROM {self._claim}) AS job ON true",
            [ids, ids, tokens, list(queues), max_jobs, interval(lease), worker],
        )
        return set(rows[0][0]), [Job(*row[1:]) for row in rows if row[1] is not None]

    def idle(self, queues: Sequence[str] = ("default",), idle: bool = True) -> list[str]:
        """Say that this session is about to sleep, or awake again; the answer is the channels to LISTEN to."""
        return [
            row[0] for row in self._rows(f"SELECT {self._at}pgq_idle(%s::text[], %s::boolean)", [list(queues), idle])
        ]

    def remaining(self, queues: Sequence[str] = ("default",)) -> Remaining:
        """What is left to do in these queues."""
        return Remaining(
            *self._row(f"SELECT ripe_in, running FROM {self._at}pgq_remaining(%s::text[])", [list(queues)])
        )

    def register(
        self, name: str, queues: Sequence[str] = ("default",), host: str | None = None, pid: int | None = None
    ) -> None:
        """
        Be there, under the name of one's claims, for as long as this connection is open.

        Raises WrongState while another session has the name.
        """
        self._row(
            f"SELECT {self._at}pgq_register(%s::text, %s::text[], %s::text, %s::integer)",
            [name, list(queues), host, pid],
        )

    def unregister(self, name: str) -> bool:
        """Leave; the answer is whether this connection had registered the name."""
        return bool(self._row(f"SELECT {self._at}pgq_unregister(%s::text)", [name])[0])

    def reconcile(self, name: str, jobs: Sequence[Job]) -> int:
        """
        Give back what was claimed under a name that this connection has registered, but these jobs; answers how many.
        """
        ids, tokens = held(jobs)
        return int(
            self._row(f"SELECT {self._at}pgq_reconcile(%s::text, %s::bigint[], %s::bigint[])", [name, ids, tokens])[0]
        )

    def hold(self, job: Job) -> str:
        """Lock the job until the end of the transaction; the answer is the id of that. Raises LeaseLost."""
        return str(
            self._row(
                f"SELECT pg_current_xact_id()::text, {self._at}pgq_hold(%s::bigint, %s::bigint)", [job.id, job.token]
            )[0]
        )

    def complete(self, job: Job, result: Any = None) -> None:
        """End the job; a result, unless None, is kept. Raises LeaseLost."""
        self.complete_with(job, None if result is None else as_result(result))

    def complete_with(self, job: Job, result: str | None) -> None:
        """Do the same with a result that is JSON text already."""
        self._row(f"SELECT {self._at}pgq_complete(%s::bigint, %s::bigint, %s::jsonb)", [job.id, job.token, result])

    def complete_within(self, transaction: str, job: Job, result: Any = None) -> bool:
        """Do the same, but only in the transaction with this id; the answer is whether this is the one."""
        ended = self._row(
            "SELECT CASE WHEN pg_current_xact_id()::text = %s "
            f"THEN {self._at}pgq_complete(%s::bigint, %s::bigint, %s::jsonb) END",
            [transaction, job.id, job.token, None if result is None else as_result(result)],
        )
        return ended[0] is not None

    def complete_many(self, jobs: Sequence[Job]) -> set[int]:
        """End the jobs; the answer is the ids of those that were still held. The others are not done."""
        ended = self._rows(f"SELECT {self._at}pgq_complete_many(%s::bigint[], %s::bigint[])", held(jobs))
        return {row[0] for row in ended}

    def fail(
        self, job: Job, error: str | None = None, retry_in: Interval | None = None, *, retry: bool = True
    ) -> Failure:
        """End the attempt as failed, with ``retry=False`` as the last one; raises LeaseLost."""
        return Failure(
            *self._row(
                f"SELECT outcome, ripe_at FROM {self._at}pgq_fail(%s::bigint, %s::bigint, %s::text, %s::interval, "
                "%s::boolean)",
                [job.id, job.token, error, interval(retry_in), retry],
            )
        )

    def cancel_claimed(self, job: Job, reason: str | None = None) -> None:
        """End the job as not worth doing; it is kept as cancelled. Raises LeaseLost."""
        self._row(f"SELECT {self._at}pgq_cancel_claimed(%s::bigint, %s::bigint, %s::text)", [job.id, job.token, reason])

    def extend(self, job: Job, lease: Interval = timedelta(minutes=5)) -> datetime:
        """Let the lease end no sooner than ``lease`` from now; the answer is its end. Raises LeaseLost."""
        until: datetime = self._row(
            f"SELECT {self._at}pgq_extend(%s::bigint, %s::bigint, %s::interval)", [job.id, job.token, interval(lease)]
        )[0]
        return until

    def snooze(self, job: Job, until: datetime | None = None, delay: Interval | None = None) -> str:
        """Put the job back until or for later, the attempt not counted: snoozed or merged. Raises LeaseLost."""
        if until is not None:
            check_aware("until", until)
        return str(
            self._row(
                f"SELECT {self._at}pgq_snooze(%s::bigint, %s::bigint, %s::timestamptz, %s::interval)",
                [job.id, job.token, until, interval(delay)],
            )[0]
        )

    def release(self, job: Job) -> str:
        """Put the job back at its old place, the attempt not counted: released or merged. Raises LeaseLost."""
        return str(self._row(f"SELECT {self._at}pgq_release(%s::bigint, %s::bigint)", [job.id, job.token])[0])

    # For operators.

    def cancel(self, job_id: int) -> None:
        """End a waiting or running job; raises JobNotFound or WrongState."""
        self._row(f"SELECT {self._at}pgq_cancel(%s::bigint)", [job_id])

    def retry(self, job_id: int) -> str:
        """Bring a dead or cancelled job back: retry or merged. Raises JobNotFound or WrongState."""
        return str(self._row(f"SELECT {self._at}pgq_retry(%s::bigint)", [job_id])[0])

    def purge(
        self,
        older_than: Interval = timedelta(days=30),
        outcome: str | None = None,
        queue: str | None = None,
        max_jobs: int = 10_000,
    ) -> int:
        """Delete ended jobs, at most ``max_jobs`` of them; the answer is how many."""
        return int(
            self._row(
                f"SELECT {self._at}pgq_purge(%s::interval, %s::text, %s::text, %s::integer)",
                [interval(older_than), outcome, queue, max_jobs],
            )[0]
        )

    def grant(self, role: str, privilege: str, queues: Sequence[str] | None = None) -> None:
        """Let a role be producer, worker, admin or reader, of these queues or (None) of all. For the owner of pgq."""
        self._row(
            f"SELECT {self._at}pgq_grant(%s::text, %s::text, %s::text[])", [role, privilege, queues and list(queues)]
        )

    def revoke(self, role: str, privilege: str, queues: Sequence[str] | None = None) -> None:
        """Take back what was granted. For the owner of pgq."""
        self._row(
            f"SELECT {self._at}pgq_revoke(%s::text, %s::text, %s::text[])", [role, privilege, queues and list(queues)]
        )

    def version(self) -> str:
        """The version of the SQL."""
        return str(self._row(f"SELECT {self._at}pgq_version()", [])[0])

    # Everything above goes through these.

    def _rows(self, query: str, params: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with translated(), self._cursor(tuple_row) as cursor:
            cursor.execute(query, params)
            return cursor.fetchall()

    def _jobs(self, query: str, params: Sequence[Any]) -> list[Job]:
        with translated(), self._cursor(args_row(Job)) as cursor:
            cursor.execute(query, params)
            return cursor.fetchall()

    def _row(self, query: str, params: Sequence[Any] | Mapping[str, Any]) -> tuple[Any, ...]:
        (row,) = self._rows(query, params)
        return row

    def _cursor(self, row_factory: RowFactory[R]) -> psycopg.Cursor[R]:
        """
        A cursor of this class, whatever the connection's factory is; some have no parameters, or no binary answers.
        Those are wanted because how times look as text is up to DateStyle.
        """
        cursor = psycopg.Cursor(self.conn, row_factory=row_factory)
        cursor.format = Format.BINARY
        return cursor
