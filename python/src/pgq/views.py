"""The views of pgq as dictionaries, for people and their tools."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pgq.convert import qualifier
from pgq.errors import JobNotFound, translated

# The columns of pgq_jobs that a reader sees; an admin also sees the others.
LISTED = "id, state, queue, kind, priority, attempt, max_retries, ripe_at, enqueued_at, worker, lease_until, ended_at"


class Views:
    """
    The views, read through a connection that the caller owns.

    Without ``schema`` the search path finds them.
    """

    def __init__(self, conn: psycopg.Connection[Any], *, schema: str | None = None) -> None:
        self.conn = conn
        self._prefix = qualifier(conn, schema)

    def jobs(
        self, state: str | None = None, queue: str | None = None, kind: str | None = None, limit: int = 50
    ) -> list[dict[str, Any]]:
        """Return the jobs that match, the newest first, without their arguments and errors; None matches all."""
        return self._rows(
            f"SELECT {LISTED} FROM {self._prefix}pgq_jobs "
            "WHERE (%(state)s::text IS NULL OR state = %(state)s) "
            "AND (%(queue)s::text IS NULL OR queue = %(queue)s) "
            "AND (%(kind)s::text IS NULL OR kind = %(kind)s) "
            "ORDER BY id DESC LIMIT %(limit)s::bigint",
            {"state": state, "queue": queue, "kind": kind, "limit": limit},
        )

    def job(self, job_id: int) -> dict[str, Any]:
        """
        Return a job with its arguments, result and errors; arguments and result are JSON text.

        Raises JobNotFound.
        """
        rows = self._rows(
            f"SELECT {LISTED}, backoff::text, backoff_cap::text, dedup, dedup_key, claimed_at, args::text, "
            f"result::text, errors::text FROM {self._prefix}pgq_jobs WHERE id = %(id)s::bigint",
            {"id": job_id},
        )
        if not rows:
            raise JobNotFound(
                f"there is no job {job_id}",
                hint="Check the number; a job that is done without a result leaves nothing behind.",
            )
        return rows[0] | {"errors": json.loads(rows[0]["errors"])}

    def stats(self) -> list[dict[str, Any]]:
        """Return the numbers of jobs by queue and kind."""
        return self._rows(f"SELECT * FROM {self._prefix}pgq_stats ORDER BY queue, kind", {})

    def workers(self) -> list[dict[str, Any]]:
        """Return the workers that have registered or hold jobs."""
        return self._rows(f"SELECT * FROM {self._prefix}pgq_workers ORDER BY name", {})

    def _rows(self, query: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        # Binary, because the text form of times and intervals depends on DateStyle and IntervalStyle.
        with translated(), self.conn.cursor(binary=True, row_factory=dict_row) as cursor:
            cursor.execute(query, params)
            return cursor.fetchall()
