"""Whether the signatures and the groups of the waiting jobs are those of their values."""

from __future__ import annotations

from typing import Any

import psycopg

MISSIGNED = """
SELECT format('job %s: signature %s, group %s', id, coalesce(signature::text, 'NULL'), coalesce(group_id::text, 'NULL'))
FROM pgq_waiting
WHERE signature IS DISTINCT FROM CASE WHEN dedup THEN _pgq_signature(queue, kind, args, dedup_key) END
   OR (group_id IS NULL) <> (group_key IS NULL)
   OR group_id NOT IN (_pgq_group_id(group_key), _pgq_room())
ORDER BY id
"""


def missigned(conn: psycopg.Connection[Any]) -> list[str]:
    """Return the waiting jobs whose signature or group is not that of their values."""
    return [row[0] for row in conn.execute(MISSIGNED.encode()).fetchall()]
