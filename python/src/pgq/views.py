"""What there is to look at, for people: the views of pgq as dictionaries."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pgq.convert import qualifier
from pgq.errors import JobNotFound, translated

# What a mere reader may see; the rest of the view is for administrators.
LISTED = "id, state, queue, kind, priority, attempt, max_retries, ripe_at, enqueued_at, worker, lease_until, ended_at"


class Views:
    """The views of pgq in a database, read through a connection of the caller's."""

    def __init__(self, conn: psycopg.Connection[Any], *, schema: str | None = None) -> None:
        self.conn = conn
        self._at = qualifier(conn, schema)

    def jobs(
        self, state: str | None = None, queue: str | None = None, kind: str | None = None, limit: int = 50
    ) -> list[dict[str, Any]]:
        """The newest jobs that match, newest first, without their arguments and errors; None matches all."""
        return self._rows(
            f"SELECT {LISTED} FROM {self._at}pgq_jobs "
            "WHERE (%(state)s::text IS NULL OR state = %(state)s) "
            "AND (%(queue)s::text IS NULL OR queue = %(queue)s) "
            "AND (%(kind)s::text IS NULL OR kind = %(kind)s) "
            "ORDER BY id DESC LIMIT %(limit)s::bigint",
            {"state": state, "queue": queue, "kind": kind, "limit": limit},
        )

    def job(self, job_id: int) -> dict[str, Any]:
        """All there is to know about a job; raises JobNotFound."""
        rows = self._rows(
            f"SELECT {LISTED}, backoff::text, backoff_cap::text, dedup, dedup_key, claimed_at, args::text, "
            f"result::text, errors::text FROM {self._at}pgq_jobs WHERE id = %(id)s::bigint",
            {"id": job_id},
        )
        if not rows:
            raise JobNotFound(f"there is no job {job_id}", hint="It may be done: that leaves nothing behind.")
        return rows[0] | {"errors": json.loads(rows[0]["errors"])}

    def stats(self) -> list[dict[str, Any]]:
        """Numbers of jobs by queue and kind."""
        return self._rows(f"SELECT * FROM {self._at}pgq_stats ORDER BY queue, kind", {})

    def workers(self) -> list[dict[str, Any]]:
        """Workers that have registered or hold jobs."""
        return self._rows(f"SELECT * FROM {self._at}pgq_workers ORDER BY name", {})

    def _rows(self, query: str, params: dict[str, Any]) -> list[dict[str, Any]]:
        # Binary, because how times look as text is up to DateStyle and IntervalStyle.
        with translated(), self.conn.cursor(binary=True, row_factory=dict_row) as cursor:
            cursor.execute(query, params)
            return cursor.fetchall()
