"""Queries about the database of a test, and the types of the fixtures that connect to it."""

from __future__ import annotations

import time
from typing import Any, Protocol

import psycopg
from psycopg import sql

Connection = psycopg.Connection[tuple[Any, ...]]


class Connect(Protocol):
    """Open a further connection to the database of the test."""

    def __call__(self, *, autocommit: bool = True) -> Connection: ...


class As(Protocol):
    """Connect to the database of the test as a role, in autocommit mode."""

    def __call__(self, role: str) -> Connection: ...


def one(conn: Connection, query: str, *parameters: Any) -> Any:
    """Return the only column of the only row."""
    (row,) = conn.execute(query.encode(), parameters or None).fetchall()
    (value,) = row
    return value


def flush(conn: Connection) -> None:
    """Make the statistics of the session visible to all sessions."""
    if conn.info.server_version >= 150000:
        conn.execute("SELECT pg_stat_force_next_flush()")
        return
    # PostgreSQL 14 has no such function. It sends statistics at most twice a second, and they arrive with a delay.
    time.sleep(1)
    conn.execute("SELECT 1")
    time.sleep(1)


def read(index: str, *sessions: Connection) -> int:
    """Return how many entries of the index have been read; ``sessions`` are all that have read from it lately."""
    for conn in sessions:
        flush(conn)
    return int(one(sessions[0], "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = %s", index))


def ration(conn: Connection, pause: str) -> None:
    """Set the interval between long scans; the test kit sets none."""
    conn.execute(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION _pgq_rescan_delay(entries bigint) RETURNS interval "
            "LANGUAGE sql IMMUTABLE RETURN interval {}"
        ).format(pause)
    )


def replace(conn: Connection, function: str, old: str, new: str) -> None:
    """Replace a text in the source of a function, which has it once."""
    definition = one(conn, "SELECT pg_get_functiondef(%s::regproc)", function)
    assert definition.count(old) == 1
    conn.execute(definition.replace(old, new).encode())


def record(conn: Connection, table: str, events: str, *values: str) -> None:
    """Record the values of these expressions in a table named seen, at each statement that changes the table."""
    columns = ", ".join(f"value{n} text" for n, _ in enumerate(values))
    casts = ", ".join(f"({value})::text" for value in values)
    conn.execute(f"CREATE TABLE seen ({columns})".encode())
    conn.execute(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN INSERT INTO public.seen VALUES ({casts}); RETURN NULL; END$$".encode()
    )
    conn.execute(f"CREATE TRIGGER see AFTER {events} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION see()".encode())


def seen(conn: Connection) -> list[tuple[Any, ...]]:
    """Return the values that ``record`` has recorded, in order."""
    return conn.execute("SELECT * FROM seen").fetchall()


def waits_for_lock(conn: Connection, other: Connection) -> bool:
    """Return whether the other session waits for a lock."""
    return bool(one(conn, "SELECT cardinality(pg_blocking_pids(%s)) > 0", other.info.backend_pid))


def sleeps(conn: Connection, other: Connection) -> bool:
    """Return whether a session is in pg_sleep."""
    query = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s"
    return bool(one(conn, query, other.info.backend_pid))


def expire(conn: Connection, *ids: int) -> None:
    """
    End the leases of these jobs, or of all jobs, a second ago, and move their claims back by a minute.

    Jobs that are packed with one of them lose their lease with it.
    """
    # A lease that ends no later than its claim means that the session of its worker is gone, so claims move, too.
    for table, of_these in (("pgq_running", "id = ANY (%(ids)s)"), ("pgq_running_batch", "ids && %(ids)s::bigint[]")):
        conn.execute(
            f"UPDATE {table} SET claimed_at = claimed_at - interval '1 minute', "
            f"lease_until = clock_timestamp() - interval '1 second' "
            f"WHERE {of_these} OR %(ids)s::bigint[] = '{{}}'".encode(),
            {"ids": list(ids)},
        )


def jobs(conn: Connection) -> list[tuple[Any, ...]]:
    """Return id, state and attempt of all jobs."""
    return conn.execute("SELECT id, state, attempt FROM pgq_jobs ORDER BY id").fetchall()
