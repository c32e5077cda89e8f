"""How a snapshot is read: each part under a timeout, so that a display never hangs and never burdens the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import class_row, scalar_row

from pgq.connection import binary_cursor, check_connection
from pgq.convert import qualifier
from pgq.errors import translated
from pgq.overview.snapshot import Cause, Counters, KindNumbers, Place, Snapshot, Wait, Worker


@dataclass(frozen=True)
class Part:
    """What one part of a snapshot is read from, and the class of its rows; None for a single number."""

    source: str
    row: type[Any] | None


# Those that take least come first: they are known even when the others take too long.
SOURCES: Final = {
    "ids": Part("pgq_overview_ids()", None),
    "deaths": Part("pgq_overview_deaths(interval '1 hour')", Cause),
    "waits": Part("pgq_overview_waits()", Wait),
    "places": Part("pgq_overview_queues()", Place),
    "workers": Part("pgq_workers ORDER BY name LIMIT 1000", Worker),
    "kinds": Part("pgq_overview_kinds()", KindNumbers),
    "counters": Part("pgq_overview_counters()", Counters),
}
PARTS: Final = tuple(SOURCES)
# So much of the timeout is left to each part, however long those before took.
LEAST: Final = 0.1


def read(
    conn: psycopg.Connection[Any],
    *,
    schema: str | None = None,
    parts: Sequence[str] = PARTS,
    timeout: float = 2.0,
) -> Snapshot:
    """
    Read a snapshot of the queues that the connection's role may use as admin or reader.

    It takes about ``timeout`` seconds at most: what takes longer is cancelled, and named in ``Snapshot.unknown``.
    Arguments of jobs are not read, and errors only by admins. The transaction ends with the call, so the connection
    must be in none; otherwise ValueError is raised. A role that is neither reader nor admin gets psycopg's
    InsufficientPrivilege.
    """
    check_connection(conn)
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise ValueError("the connection is in a transaction: read a snapshot outside of one")
    prefix = qualifier(schema)
    begun_at = monotonic()
    values: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    with conn.transaction():
        query = f"SELECT {prefix}pgq_now()"
        with translated(conn, query, "reader"):
            at: datetime = binary_cursor(conn, scalar_row).execute(query).fetchall()[0]
        for part in (part for part in SOURCES if part in parts):
            left = max(timeout - (monotonic() - begun_at), LEAST * timeout)
            try:
                with conn.transaction():
                    values[part] = _rows(conn, prefix, SOURCES[part], left)
            except psycopg.errors.QueryCanceled:
                unknown[part] = f"it takes longer than {timeout:g} s to read"
            except psycopg.errors.InsufficientPrivilege:
                unknown[part] = "this role may not read it: the owner of pgq is to call pgq_grant again"
    return Snapshot(at=at, seconds=monotonic() - begun_at, unknown=unknown, **values)


def _rows(conn: psycopg.Connection[Any], prefix: str, part: Part, seconds: float) -> Any:
    """Return the rows of a part, or its number."""
    timeout = "SELECT set_config('statement_timeout', %s, true)"
    binary_cursor(conn, scalar_row).execute(timeout, [f"{seconds * 1000:.0f}"])
    if part.row is None:
        return binary_cursor(conn, scalar_row).execute(f"SELECT {prefix}{part.source}").fetchall()[0]
    return tuple(binary_cursor(conn, class_row(part.row)).execute(f"SELECT * FROM {prefix}{part.source}").fetchall())
