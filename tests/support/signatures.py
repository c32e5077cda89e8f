"""Whether the signatures of the waiting jobs are those of their values."""

from __future__ import annotations

from typing import Any

import psycopg

MISSIGNED = """
SELECT format('job %s: signature %s', id, coalesce(signature::text, 'NULL'))
FROM pgq_waiting
WHERE signature IS DISTINCT FROM CASE WHEN dedup THEN _pgq_signature(queue, kind, args, dedup_key) END
ORDER BY id
"""


def missigned(conn: psycopg.Connection[Any]) -> list[str]:
    """Return the waiting jobs whose signature is not that of their values."""
    return [row[0] for row in conn.execute(MISSIGNED.encode()).fetchall()]
