"""Whether the errors in pgq_error are those of the jobs."""

from __future__ import annotations

from typing import Any

import psycopg

ASTRAY = """
SELECT format('job %s: newest_error %s, %s errors up to %s', id, j.newest_error, e.count, e.newest)
FROM (
    SELECT id, newest_error FROM pgq_waiting
    UNION ALL
    SELECT id, newest_error FROM pgq_running
    UNION ALL
    SELECT id, newest_error FROM pgq_ended
) AS j
FULL JOIN (
    SELECT id, count(*), min(number) AS oldest, max(number) AS newest FROM pgq_error GROUP BY id
) AS e USING (id)
WHERE CASE WHEN j.newest_error > 0 THEN j.newest_error END IS DISTINCT FROM e.newest OR e.newest - e.oldest >= 10
ORDER BY id
"""


def astray(conn: psycopg.Connection[Any]) -> list[str]:
    """Return the jobs, and the ids of jobs that are gone, whose errors are not those that newest_error stands for."""
    return [row[0] for row in conn.execute(ASTRAY.encode()).fetchall()]
