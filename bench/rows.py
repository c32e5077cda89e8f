"""Rows of pgq_waiting that are inserted by hand, with the values of a job that pgq_enqueue has made."""

from __future__ import annotations

from collections.abc import Mapping

from databases import Connection, connect, value
from psycopg import sql

BARE = "bare"
# The columns and indexes of pgq_waiting, without constraints; NOT NULL stays.
CREATE_BARE = f"CREATE TABLE {BARE} (LIKE pgq_waiting INCLUDING STORAGE INCLUDING INDEXES)"
OPTIONS = "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = 'pgq_waiting'::regclass"
COLUMNS = """
    SELECT attname, atttypid::regtype::text FROM pg_attribute
    WHERE attrelid = 'pgq_waiting'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
ID = "nextval('pgq_job_id')"
# What a bare INSERT gives for each job; ``:n`` is its number.
BARE_VALUES = {
    "id": ID,
    "args": "to_jsonb(:n::bigint)",
    "signature": "md5(:n::text)::uuid",
    "ripe_at": "clock_timestamp()",
    "enqueued_at": "clock_timestamp()",
}
# Rows to be deleted at once; draining so many jobs would take too long.
DEAD_VALUES = {
    "id": ID,
    "args": "jsonb_build_object('dead', %s + n)",
    "signature": "gen_random_uuid()",
    "ripe_at": "now()",
    "enqueued_at": "now()",
}


def create_bare(database: str) -> str:
    """Create the bare table in a database with pgq; return the INSERT."""
    with connect(database) as conn:
        conn.execute(CREATE_BARE)
        conn.execute(f"ALTER TABLE {BARE} SET ({value(conn, OPTIONS)})")
        given = values(conn, BARE_VALUES)
    return f"INSERT INTO {BARE} ({', '.join(given)}) VALUES ({', '.join(given.values())})"


def insert_dead(conn: Connection, first: int, count: int) -> None:
    """Insert waiting jobs, numbered from ``first``, and delete them."""
    given = values(conn, DEAD_VALUES)
    names, expressions = ", ".join(given), ", ".join(given.values())
    conn.execute(
        f"INSERT INTO pgq_waiting ({names}) SELECT {expressions} FROM generate_series(1, %s) AS n", [first, count]
    )
    conn.execute("DELETE FROM pgq_waiting")


def values(conn: Connection, given: Mapping[str, str]) -> dict[str, str]:
    """Return an SQL expression for each column of pgq_waiting: what is given, else the value of a job just enqueued."""
    columns = conn.execute(COLUMNS).fetchall()
    with conn.transaction(force_rollback=True):
        conn.execute("SELECT pgq_enqueue('job', '0')")
        texts = ", ".join(f"{name}::text" for name, _ in columns)
        row = conn.execute(f"SELECT {texts} FROM pgq_waiting WHERE id = currval('pgq_job_id')").fetchone() or ()
    return {
        name: given.get(name, f"{sql.Literal(text).as_string(conn)}::{type_}")
        for (name, type_), text in zip(columns, row, strict=True)
    }
