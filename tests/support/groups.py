"""Many jobs in groups."""

from __future__ import annotations

from typing import Final

from support.database import Connection

FILL: Final = """
INSERT INTO pgq_waiting (id, queue, kind, args, priority, ripe_at, attempt, dedup, enqueued_at, group_key, group_id)
SELECT nextval('pgq_job_id'), 'default', 'k', to_jsonb(n), 5, now() + %(in)s::interval, 0, false, now(), key,
       CASE WHEN %(in)s::interval > '0' THEN _pgq_room() ELSE _pgq_group_id(key) END
FROM generate_series(1, %(jobs)s) AS n
CROSS JOIN LATERAL (SELECT %(name)s || n %% %(groups)s AS key) AS g
"""
# How many entries of waiting jobs have been read, in any index.
ENTRIES: Final = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname = 'pgq_waiting'"


def fill(conn: Connection, name: str, groups: int, jobs: int, ripe_in: str = "-1 hour") -> None:
    """Let jobs of some groups wait."""
    conn.execute("SELECT _pgq_mark('default')")
    conn.execute(FILL, {"name": name, "groups": groups, "jobs": jobs, "in": ripe_in})
