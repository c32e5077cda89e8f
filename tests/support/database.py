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
    """The only column of the only row."""
    (row,) = conn.execute(query.encode(), parameters or None).fetchall()
    (value,) = row
    return value


def flush(conn: Connection) -> None:
    """Let the statistics of the session be known to all."""
    if conn.info.server_version >= 150000:
        conn.execute("SELECT pg_stat_force_next_flush()")
        return
    # PostgreSQL 14 has no such function: what is sent half a second after the last time arrives half a second later.
    time.sleep(1)
    conn.execute("SELECT 1")
    time.sleep(1)


def read(index: str, *sessions: Connection) -> int:
    """How many entries of the index were read so far; the sessions are all that have read any lately."""
    for conn in sessions:
        flush(conn)
    return int(one(sessions[0], "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = %s", index))


def ration(conn: Connection, pause: str) -> None:
    """Let a long scan be made again after this time, and not at once, as with the test kit."""
    conn.execute(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION _pgq_rescan_delay(cost interval) RETURNS interval "
            "LANGUAGE sql IMMUTABLE RETURN interval {}"
        ).format(pause)
    )


def record(conn: Connection, table: str, events: str, *values: str) -> None:
    """Keep these expressions, as they are in a statement that changes the table, in a table called seen."""
    columns = ", ".join(f"value{n} text" for n, _ in enumerate(values))
    casts = ", ".join(f"({value})::text" for value in values)
    conn.execute(f"CREATE TABLE seen ({columns})".encode())
    conn.execute(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN INSERT INTO public.seen VALUES ({casts}); RETURN NULL; END$$".encode()
    )
    conn.execute(f"CREATE TRIGGER see AFTER {events} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION see()".encode())


def seen(conn: Connection) -> list[tuple[Any, ...]]:
    """What was kept, in the order of events."""
    return conn.execute("SELECT * FROM seen").fetchall()


def waits_for_lock(conn: Connection, other: Connection) -> bool:
    """Whether the other session waits for somebody."""
    return bool(one(conn, "SELECT cardinality(pg_blocking_pids(%s)) > 0", other.info.backend_pid))


def expire(conn: Connection, *ids: int) -> None:
    """Let the leases on these jobs, or all of them, have run out a second ago, and be taken a minute earlier."""
    # A lease that is over before it began is that of a worker whose session is gone.
    conn.execute(
        "UPDATE pgq_running SET claimed_at = claimed_at - interval '1 minute', "
        "lease_until = clock_timestamp() - interval '1 second' "
        "WHERE id = ANY (%(ids)s) OR %(ids)s::bigint[] = '{}'",
        {"ids": list(ids)},
    )


def jobs(conn: Connection) -> list[tuple[Any, ...]]:
    """The id, state and attempt of all jobs."""
    return conn.execute("SELECT id, state, attempt FROM pgq_jobs ORDER BY id").fetchall()
