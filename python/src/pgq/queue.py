"""All calls of the driver to the SQL functions of pgq, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import args_row, tuple_row

from pgq.convert import Interval, check_aware, dumps, held, interval, plain_job
from pgq.errors import LeaseLost, translated
from pgq.job import Completed, Enqueued, Failed, Failure, Job, Outcome, Settled, is_plain

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
}
NO_ARGS: Final[dict[str, Any]] = {}

# The fields of a Job, in their order. The arguments as text: what Python cannot decode must not cost the whole batch.
JOB: Final = (
    "id, token, queue, kind, args::text AS payload, attempt, max_retries, priority, ripe_at, enqueued_at, lease_until"
)

# A worker that meets a producer's open transaction leaves the job to its lease. Shorter than deadlock_timeout, so that
# it is never the producer who gives way.
SETTLE_LOCK_TIMEOUT: Final = "300ms"


class Queue:
    """
    The queue, seen through a connection of the caller's: each method is one call, in whatever transaction the
    connection is in. Nothing here commits.

    Without ``schema`` the functions are found by the search path. Raises the classes of pgq.errors.
    """

    def __init__(self, conn: psycopg.Connection[Any], *, schema: str | None = None) -> None:
        self.conn = conn
        self._at = f"{sql.Identifier(schema).as_string(conn)}." if schema else ""
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
    ) -> Enqueued:
        """Enqueue a job. None means the default of pgq_enqueue; as ``args`` it is the JSON null."""
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
        }
        given = plain_job(job) | {"args": dumps(args)}
        named = ", ".join(f"{name} => %({name})s::{TYPES[name]}" for name in given)
        return Enqueued(*self._row(f"SELECT id, created FROM {self._at}pgq_enqueue({named})", given))

    def enqueue_many(self, jobs: Iterable[Mapping[str, Any]]) -> list[Enqueued]:
        """
        Enqueue jobs of any kinds, all or none; the answers are in the order of the jobs.

        Each job is a mapping with the arguments of ``enqueue`` as its keys.
        """
        answers = self._rows(
            f"SELECT id, created FROM {self._at}pgq_enqueue_many(%s::jsonb) ORDER BY n",
            [dumps([plain_job(job) for job in jobs])],
        )
        return [Enqueued(*answer) for answer in answers]

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

    def hold(self, job: Job) -> str:
        """Lock the job until the end of the transaction; the answer is the id of that. Raises LeaseLost."""
        return str(
            self._row(
                f"SELECT pg_current_xact_id()::text, {self._at}pgq_hold(%s::bigint, %s::bigint)", [job.id, job.token]
            )[0]
        )

    def complete(self, job: Job, result: Any = None) -> None:
        """End the job; a result, unless None, is kept. Raises LeaseLost."""
        self._complete(job, None if result is None else dumps(result))

    def complete_within(self, transaction: str, job: Job, result: Any = None) -> bool:
        """Do the same, but only in the transaction with this id; the answer is whether this is the one."""
        ended = self._row(
            "SELECT CASE WHEN pg_current_xact_id()::text = %s "
            f"THEN {self._at}pgq_complete(%s::bigint, %s::bigint, %s::jsonb) END",
            [transaction, job.id, job.token, None if result is None else dumps(result)],
        )
        return ended[0] is not None

    def complete_many(self, jobs: Sequence[Job]) -> set[int]:
        """End the jobs; the answer is the ids of those that were still held. The others are not done."""
        ended = self._rows(f"SELECT {self._at}pgq_complete_many(%s::bigint[], %s::bigint[])", held(jobs))
        return {row[0] for row in ended}

    def fail(self, job: Job, error: str | None = None, retry_in: Interval | None = None) -> Failure:
        """End the attempt as failed; raises LeaseLost."""
        return Failure(
            *self._row(
                f"SELECT outcome, ripe_at FROM {self._at}pgq_fail(%s::bigint, %s::bigint, %s::text, %s::interval)",
                [job.id, job.token, error, interval(retry_in)],
            )
        )

    def extend(self, job: Job, lease: Interval = timedelta(minutes=5)) -> datetime:
        """Let the lease end no sooner than ``lease`` from now; the answer is its end. Raises LeaseLost."""
        until: datetime = self._row(
            f"SELECT {self._at}pgq_extend(%s::bigint, %s::bigint, %s::interval)", [job.id, job.token, interval(lease)]
        )[0]
        return until

    def snooze(self, job: Job, until: datetime) -> str:
        """Put the job back until later, the attempt not counted: snoozed or merged. Raises LeaseLost."""
        check_aware("until", until)
        return str(
            self._row(
                f"SELECT {self._at}pgq_snooze(%s::bigint, %s::bigint, %s::timestamptz)", [job.id, job.token, until]
            )[0]
        )

    def release(self, job: Job) -> str:
        """Put the job back at its old place, the attempt not counted: released or merged. Raises LeaseLost."""
        return str(self._row(f"SELECT {self._at}pgq_release(%s::bigint, %s::bigint)", [job.id, job.token])[0])

    def settle(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        """
        Put the outcomes of a batch on record; call it inside a transaction.

        One that cannot be recorded, because its lease is lost or a producer's open transaction is in the way, does not
        keep the others from it: each but the plain completions has a savepoint of its own.
        """
        plain = [outcome.job for outcome in outcomes if is_plain(outcome)]
        others = [outcome for outcome in outcomes if not is_plain(outcome)]
        done = self.complete_many(plain) if plain else set()
        settled = [Settled(job, "done" if job.id in done else "lost") for job in plain]
        if others:
            self._row("SELECT set_config('lock_timeout', %s, true)", [SETTLE_LOCK_TIMEOUT])
        return settled + [self._settle_one(outcome) for outcome in others]

    def _settle_one(self, outcome: Outcome) -> Settled:
        try:
            with self.conn.transaction():
                return self._record(outcome)
        except LeaseLost:
            return Settled(outcome.job, "lost")
        except psycopg.errors.LockNotAvailable:
            return Settled(outcome.job, "left")
        except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, UnicodeError) as error:
            storable = _storable(outcome, error)
            if storable is None:
                raise
            return self._settle_one(storable)

    def _record(self, outcome: Outcome) -> Settled:
        job = outcome.job
        if isinstance(outcome, Completed):
            self._complete(job, outcome.result)
            return Settled(job, "done")
        if isinstance(outcome, Failed):
            failure = self.fail(job, outcome.error)
            return Settled(job, failure.outcome, failure.ripe_at, outcome.cause)
        return Settled(job, self.release(job))

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

    def version(self) -> str:
        """The version of the SQL."""
        return str(self._row(f"SELECT {self._at}pgq_version()", [])[0])

    # Everything above goes through these.

    def _complete(self, job: Job, result: str | None) -> None:
        self._row(f"SELECT {self._at}pgq_complete(%s::bigint, %s::bigint, %s::jsonb)", [job.id, job.token, result])

    def _rows(self, query: str, params: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with translated(), self.conn.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(query, params)
            return cursor.fetchall()

    def _jobs(self, query: str, params: Sequence[Any]) -> list[Job]:
        with translated(), self.conn.cursor(row_factory=args_row(Job)) as cursor:
            cursor.execute(query, params)
            return cursor.fetchall()

    def _row(self, query: str, params: Sequence[Any] | Mapping[str, Any]) -> tuple[Any, ...]:
        (row,) = self._rows(query, params)
        return row


def _storable(outcome: Outcome, error: Exception) -> Failed | None:
    """What to record instead of an outcome whose text the database refused; None when there is nothing else."""
    if isinstance(outcome, Completed):
        return Failed(outcome.job, "the database refused the result", type(error).__name__)
    # A database in another encoding than UTF-8 cannot hold every text.
    if isinstance(outcome, Failed) and not outcome.error.isascii():
        return Failed(outcome.job, outcome.error.encode("ascii", "backslashreplace").decode("ascii"), outcome.cause)
    return None
