"""The views of pgq as dictionaries, for people and their tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from pgq.connection import binary_cursor, check_connection
from pgq.convert import Interval, interval, qualifier
from pgq.errors import JobNotFound, translated

# The columns of pgq_jobs that a reader sees; an admin also sees the others.
LISTED = (
    "id, state, queue, kind, priority, attempt, max_retries, ripe_at, enqueued_at, worker, lease_until, ended_at, "
    "sensitive"
)
# Those of pgq_schedules.
SCHEDULED = (
    "name, cron, timezone, queue, kind, priority, max_retries, backoff, backoff_cap, catch_up, overlap, jitter, "
    "source, paused, next_at, last_at, last_job, last_error_at, missed, sensitive"
)
# Of a job, and of a schedule: what a reader does not see, and what is not shown of a sensitive queue.
PRIVATE: Final = ("dedup_key", "group_key", "args", "result", "errors", "saved")
PRIVATE_OF_SCHEDULE: Final = ("args", "group_key", "last_error")
MATCHING: Final = (
    "(%(states)s::text[] IS NULL OR state = ANY (%(states)s::text[])) "
    "AND (%(queue)s::text IS NULL OR queue = %(queue)s) "
    "AND (%(kind)s::text IS NULL OR kind = %(kind)s)"
)
# The first line of the newest error; a client may have begun it with an empty one.
FIRST_LINE: Final = r"left(split_part(translate(ltrim(errors->0->>'error', E' \t\r\n'), E'\r', E'\n'), E'\n', 1), 200)"


def not_found(job_id: int) -> JobNotFound:
    """Return the error for a job that is not in the view."""
    return JobNotFound(
        f"there is no job {job_id}",
        hint="Check the number; a job that is done without a result leaves nothing behind.",
    )


def shown_if(show_args: bool | None) -> str:
    """Return the SQL condition for rows of which what is private is shown."""
    return "NOT sensitive" if show_args is None else str(show_args).lower()


class Views:
    """
    The views, read through a connection that the caller owns.

    Without ``schema`` the search path finds them.

    Where a method takes ``show_args``, it says whether arguments, results and errors, with all else that a reader does
    not see, are among what is returned: True, False (they are None), or None, which means for all but sensitive queues.
    """

    def __init__(self, conn: psycopg.Connection[Any], *, schema: str | None = None) -> None:
        check_connection(conn)
        self.conn = conn
        self._prefix = qualifier(schema)

    def jobs(
        self,
        state: str | Sequence[str] | None = None,
        queue: str | None = None,
        kind: str | None = None,
        limit: int = 50,
        *,
        older_than: Interval | None = None,
        show_args: bool | None = None,
    ) -> list[dict[str, Any]]:
        """
        Return the jobs that match, the newest first; None matches all.

        With ``older_than`` only jobs that ended, or else were enqueued, longer ago.
        ``error`` is the first line of the newest error, None for a role that may not read errors. Arguments, results
        and whole errors are left out.
        """
        errors = f"CASE WHEN {shown_if(show_args)} THEN errors END AS errors"
        if not self._may_read("pgq_jobs", "errors"):
            errors = "NULL::jsonb AS errors"
        # The limit comes first: errors can be long.
        return self._rows(
            f"SELECT {LISTED}, {FIRST_LINE} AS error FROM (SELECT {LISTED}, {errors} {self._matching(older_than)} "
            "ORDER BY id DESC LIMIT %(limit)s::bigint) AS j ORDER BY id DESC",
            self._filter(state, queue, kind, older_than) | {"limit": limit},
        )

    def ids(
        self,
        state: str | Sequence[str] | None = None,
        queue: str | None = None,
        kind: str | None = None,
        *,
        older_than: Interval | None = None,
    ) -> list[int]:
        """Return the ids of all jobs that match, as in ``jobs``, the oldest first."""
        rows = self._rows(
            f"SELECT id {self._matching(older_than)} ORDER BY id", self._filter(state, queue, kind, older_than)
        )
        return [row["id"] for row in rows]

    def count(
        self,
        state: str | Sequence[str] | None = None,
        queue: str | None = None,
        kind: str | None = None,
        *,
        older_than: Interval | None = None,
    ) -> int:
        """Return the number of the jobs that match, as in ``jobs``."""
        rows = self._rows(
            f"SELECT count(*) AS n {self._matching(older_than)}", self._filter(state, queue, kind, older_than)
        )
        return int(rows[0]["n"])

    def job(self, job_id: int, *, show_args: bool | None = None) -> dict[str, Any]:
        """
        Return a job with all that belongs to it; arguments, result and what it has saved are JSON text.

        Raises JobNotFound.
        """
        private = ", ".join(f"CASE WHEN {shown_if(show_args)} THEN {name}::text END AS {name}" for name in PRIVATE)
        rows = self._rows(
            f"SELECT {LISTED}, backoff::text, backoff_cap::text, dedup, claimed_at, after, waits_for_signal, {private} "
            f"FROM {self._prefix}pgq_jobs WHERE id = %(id)s::bigint",
            {"id": job_id},
            "admin",
        )
        if not rows:
            raise not_found(job_id)
        return rows[0] | {"errors": rows[0]["errors"] and json.loads(rows[0]["errors"])}

    def outlines(self, job_ids: Sequence[int], *, required: int) -> list[dict[str, Any]]:
        """
        Return id, kind, state, queue and ``after`` of those of these jobs that there are.

        Raises JobNotFound if the required one is not among them.
        """
        rows = self._rows(
            f"SELECT id, kind, state, queue, after FROM {self._prefix}pgq_jobs WHERE id = ANY (%(ids)s::bigint[])",
            {"ids": list(job_ids)},
        )
        if all(row["id"] != required for row in rows):
            raise not_found(required)
        return rows

    def prerequisites(self) -> dict[int, list[int]]:
        """Return what each blocked job still waits for, by its id."""
        rows = self._rows(f"SELECT id, after FROM {self._prefix}pgq_jobs WHERE state = 'blocked'", {})
        return {row["id"]: row["after"] for row in rows}

    def stats(self) -> list[dict[str, Any]]:
        """Return the numbers of jobs by queue and kind."""
        return self._rows(f"SELECT * FROM {self._prefix}pgq_stats ORDER BY queue, kind", {})

    def counters(self) -> list[dict[str, Any]]:
        """Return what has happened to the jobs of each queue and kind since ever."""
        return self._rows(f"SELECT * FROM {self._prefix}pgq_counters ORDER BY queue, kind", {})

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers that have registered or hold jobs."""
        return self._rows(f"SELECT * FROM {self._prefix}pgq_workers ORDER BY name", {})

    def queues(self) -> list[dict[str, Any]]:
        """Return the queues that have settings, are paused, or have jobs that wait or run."""
        return self._rows(f"SELECT * FROM {self._prefix}pgq_queues ORDER BY queue", {})

    def batches(self, limit: int = 50) -> list[dict[str, Any]]:
        """Return the newest batches that are still known, with how far they have got."""
        return self._rows(
            f"SELECT * FROM {self._prefix}pgq_batches ORDER BY id DESC LIMIT %(limit)s::bigint", {"limit": limit}
        )

    def schedules(self, *, show_args: bool | None = None) -> list[dict[str, Any]]:
        """Return the schedules; args, group_key and last_error are None for a role that may not read them."""
        shown = shown_if(show_args)
        private = ", ".join(f"CASE WHEN {shown} THEN {name} END AS {name}" for name in PRIVATE_OF_SCHEDULE)
        if not self._may_read("pgq_schedules", "last_error"):
            private = "NULL::jsonb AS args, NULL AS group_key, NULL AS last_error"
        return self._rows(f"SELECT {SCHEDULED}, {private} FROM {self._prefix}pgq_schedules ORDER BY name", {})

    def _matching(self, older_than: Interval | None) -> str:
        """Return the end of a query for the jobs that match."""
        # A sub-select, because pgq_now() is volatile: it is called once.
        age = f"(SELECT {self._prefix}pgq_now()) - %(older_than)s::interval"
        older = "" if older_than is None else f" AND coalesce(ended_at, enqueued_at) <= {age}"
        return f"FROM {self._prefix}pgq_jobs WHERE {MATCHING}{older}"

    def _filter(
        self, state: str | Sequence[str] | None, queue: str | None, kind: str | None, older_than: Interval | None
    ) -> dict[str, Any]:
        """Return the parameters of such a query."""
        states = [state] if isinstance(state, str) else state and list(state)
        return {"states": states, "queue": queue, "kind": kind, "older_than": interval(older_than)}

    def _may_read(self, view: str, column: str) -> bool:
        """Return whether the role has this column, which a reader may not have."""
        parameters = {"view": f"{self._prefix}{view}".replace("%%", "%"), "column": column}
        rows = self._rows("SELECT has_column_privilege(%(view)s, %(column)s, 'SELECT') AS may", parameters)
        return bool(rows[0]["may"])

    def _rows(self, query: str, params: dict[str, Any], privilege: str = "reader") -> list[dict[str, Any]]:
        with translated(self.conn, query, privilege):
            return binary_cursor(self.conn, dict_row).execute(query, params).fetchall()
