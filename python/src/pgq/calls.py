"""The calls of producers and operators without I/O: for each one the SQL, its parameters, and how its rows are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from pgq import tracing
from pgq.convert import Interval, dumps, given, interval, moment, plain_job, qualifier
from pgq.handlers import Handlers
from pgq.job import BatchProgress, Enqueued, EnqueuedBatch, Job, Result
from pgq.new_job import NewJob

T = TypeVar("T")
Rows = Sequence[Sequence[Any]]

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


class Call(NamedTuple, Generic[T]):
    """A statement with parameters in their order, each written as %s, and the function that reads its rows."""

    query: str
    params: Sequence[Any]
    read: Callable[[Rows], T]


class Calls:
    """
    The calls, as ``pgq.Queue`` describes them; each method returns a Call.

    ``job`` maps the names of the arguments to their values; None, and what is no argument, is passed over.
    """

    def __init__(self, schema: str | None, handlers: Handlers) -> None:
        self.handlers = handlers
        self.prefix = qualifier(schema)

    def enqueue(self, job: Mapping[str, Any]) -> Call[Enqueued]:
        names, values = self._named(TYPES, self._plain(_given(TYPES, job)))
        return Call(f"SELECT id, created FROM {self.prefix}pgq_enqueue({names})", values, _enqueued)

    def enqueue_many(self, jobs: Iterable[NewJob]) -> Call[list[Enqueued]]:
        plain = self._plain if tracing.is_on() else self._copied
        return Call(
            f"SELECT id, created FROM {self.prefix}pgq_enqueue_many(jobs => %s::jsonb) ORDER BY n",
            [self._dumps([plain(job) for job in jobs])],
            _all_enqueued,
        )

    def enqueue_batch(self, job: Mapping[str, Any], jobs: Iterable[NewJob]) -> Call[EnqueuedBatch]:
        names, values = self._named(BATCH_TYPES, self._plain(_given(BATCH_TYPES, job)))
        return Call(
            f"SELECT id, ids FROM {self.prefix}pgq_enqueue_batch({names}, jobs => %s::jsonb)",
            [*values, self._dumps([self._plain(one) for one in jobs])],
            lambda rows: EnqueuedBatch(*_row(rows)),
        )

    def add_to_batch(self, job: Job, jobs: Iterable[NewJob]) -> Call[list[int]]:
        return Call(
            f"SELECT {self.prefix}pgq_add_to_batch(%s::bigint, %s::bigint, %s::jsonb)",
            [job.id, job.token, self._dumps([self._plain(added) for added in jobs])],
            _value,
        )

    def batch_progress(self, batch_id: int) -> Call[BatchProgress]:
        return Call(
            f"SELECT jobs, ended, failed, failed_ids FROM {self.prefix}pgq_batch_progress(%s::bigint)",
            [batch_id],
            lambda rows: BatchProgress(*_row(rows)),
        )

    def results(self, job_ids: Iterable[int]) -> Call[list[Result]]:
        return Call(
            "SELECT i.id, r.state, r.result::text, r.error, r.ended_at FROM unnest(%s::bigint[]) WITH ORDINALITY "
            f"AS i (id, n), {self.prefix}pgq_result(i.id) AS r ORDER BY i.n",
            [list(job_ids)],
            lambda rows: [Result(*row) for row in rows],
        )

    def await_end(self, job_id: int, waiting: bool) -> Call[str]:
        return Call(f"SELECT {self.prefix}pgq_await(%s::bigint, %s::boolean)", [job_id, waiting], _value)

    def signal(self, job_id: int, name: str, payload: Any) -> Call[bool]:
        return Call(
            f"SELECT {self.prefix}pgq_signal(%s::bigint, %s::text, %s::jsonb)",
            [job_id, name, None if payload is None else self._dumps(payload)],
            _value,
        )

    def signal_key(self, kind: str, dedup_key: str, name: str, payload: Any, queue: str) -> Call[int]:
        return Call(
            f"SELECT {self.prefix}pgq_signal_key(%s::text, %s::text, %s::text, %s::text, %s::jsonb)",
            [queue, kind, dedup_key, name, None if payload is None else self._dumps(payload)],
            _value,
        )

    def cancel(self, job_id: int) -> Call[Literal["cancelled", "requested"]]:
        return Call(f"SELECT {self.prefix}pgq_cancel(%s::bigint)", [job_id], _value)

    def update(
        self, job_id: int, args: Any, ripe_at: datetime | None, priority: int | None, group_key: str | None
    ) -> Call[datetime]:
        return Call(
            f"SELECT {self.prefix}pgq_update(%s::bigint, %s::jsonb, %s::timestamptz, %s::bigint, %s::text)",
            [job_id, None if args is UNCHANGED else self._dumps(args), moment("ripe_at", ripe_at), priority, group_key],
            _value,
        )

    def retry(self, job_id: int) -> Call[str]:
        return Call(f"SELECT {self.prefix}pgq_retry(%s::bigint)", [job_id], _value)

    def purge(
        self, older_than: Interval, outcome: str | None, queue: str | None, max_jobs: int, kind: str | None
    ) -> Call[int]:
        return Call(
            f"SELECT {self.prefix}pgq_purge(%s::interval, %s::text, %s::text, %s::bigint, %s::text)",
            [interval(older_than), outcome, queue, max_jobs, kind],
            _value,
        )

    def purge_jobs(self, job_ids: Iterable[int]) -> Call[int]:
        return Call(f"SELECT {self.prefix}pgq_purge_jobs(%s::bigint[])", [list(job_ids)], _value)

    def configure(self, queue: str, settings: Mapping[str, Any] | None) -> Call[dict[str, Any]]:
        return Call(
            f"SELECT {self.prefix}pgq_configure(%s::text, %s::jsonb)::text",
            [queue, self._dumps(plain_job(settings or {}))],
            lambda rows: dict(json.loads(_row(rows)[0])),
        )

    def pause(self, queue: str, until: datetime | None, group_key: str | None) -> Call[None]:
        query = f"SELECT {self.prefix}pgq_pause(%s::text, %s::timestamptz, %s::text)"
        return Call(query, [queue, moment("until", until), group_key], _nothing)

    def resume(self, queue: str, group_key: str | None) -> Call[bool]:
        return Call(f"SELECT {self.prefix}pgq_resume(%s::text, %s::text)", [queue, group_key], _value)

    def schedule(self, job: Mapping[str, Any]) -> Call[datetime]:
        names, values = self._named(SCHEDULE_TYPES, self._with_defaults(_given(SCHEDULE_TYPES, job)))
        return Call(f"SELECT {self.prefix}pgq_schedule({names})", values, _value)

    def unschedule(self, name: str) -> Call[bool]:
        return Call(f"SELECT {self.prefix}pgq_unschedule(%s::text)", [name], _value)

    def pause_schedule(self, name: str) -> Call[bool]:
        return Call(f"SELECT {self.prefix}pgq_pause_schedule(%s::text)", [name], _value)

    def resume_schedule(self, name: str) -> Call[datetime]:
        return Call(f"SELECT {self.prefix}pgq_resume_schedule(%s::text)", [name], _value)

    def run_schedule(self, name: str) -> Call[int]:
        return Call(f"SELECT {self.prefix}pgq_run_schedule(%s::text)", [name], _value)

    def grant(self, role: str, privilege: str, queues: Sequence[str] | None) -> Call[None]:
        query = f"SELECT {self.prefix}pgq_grant(%s::text, %s::text, %s::text[])"
        return Call(query, [role, privilege, queues and list(queues)], _nothing)

    def revoke(self, role: str, privilege: str, queues: Sequence[str] | None) -> Call[None]:
        query = f"SELECT {self.prefix}pgq_revoke(%s::text, %s::text, %s::text[])"
        return Call(query, [role, privilege, queues and list(queues)], _nothing)

    def version(self) -> Call[str]:
        return Call(f"SELECT {self.prefix}pgq_version()", [], _value)

    def _plain(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Return the given values of a job, and the defaults of its handler for the rest."""
        plain = self._with_defaults(job)
        if tracing.is_on() and "context" not in plain and (context := tracing.current()):
            plain["context"] = context
        return plain

    def _with_defaults(self, job: Mapping[str, Any]) -> dict[str, Any]:
        return plain_job({**self.handlers.defaults(job), **given(job)})

    def _copied(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Return what ``_plain`` returns without a trace: a mere copy of most jobs, in a fifth of the time."""
        if type(job) is not dict or self.handlers.defaults(job):
            return self._plain(job)
        for name, value in job.items():
            if name != "args" and type(value) not in PASSED_ON:
                return self._plain(job)
        return job.copy()

    def _named(self, types: Mapping[str, str], plain: dict[str, Any]) -> tuple[str, list[Any]]:
        """Return the arguments of a function in named notation, and their values."""
        for name in ("args", "context"):
            if name in plain:
                plain[name] = self._dumps(plain[name])
        return ", ".join([f"{name} => %s::{types[name]}" for name in plain]), list(plain.values())

    def _dumps(self, value: Any) -> str:
        return dumps(value, self.handlers.json_hook)


def _given(types: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of these arguments that are not None, and ``args`` in any case, where None is the JSON null."""
    return {name: value for name in types if (value := values[name]) is not None or name == "args"}


def _enqueued(rows: Rows) -> Enqueued:
    return Enqueued(*_row(rows))


def _all_enqueued(rows: Rows) -> list[Enqueued]:
    return list(map(Enqueued._make, rows))


def _row(rows: Rows) -> Sequence[Any]:
    (row,) = rows
    return row


def _value(rows: Rows) -> Any:
    """Return the one value of the one row."""
    ((value,),) = rows
    return value


def _nothing(rows: Rows) -> None:
    """Return None for the one row of a function that returns void."""
