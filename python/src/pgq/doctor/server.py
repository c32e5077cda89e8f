"""What the server runs out of, and what stands between it and its clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import psycopg
from psycopg.conninfo import make_conninfo

from pgq.doctor.finding import Finding, Unseen
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.words import listed, number
from pgq.errors import TransactionPooler
from pgq.worker.pooler import refuse_transaction_pooler
from pgq.worker.server import Server

# A listening session that stays in a transaction keeps all notifications since its begin.
NOTIFICATIONS: Final = """
    SELECT pg_notification_queue_usage() AS used,
           ARRAY(
               SELECT a.pid
               FROM pg_stat_activity AS a
               WHERE a.datname = current_database() AND a.xact_start IS NOT NULL AND a.pid <> pg_backend_pid()
               ORDER BY a.xact_start
               LIMIT 5
           ) AS pids
"""
CONNECTIONS: Final = """
    SELECT 'the server' AS of, count(*) AS used,
           (current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer)
               AS most
    FROM pg_stat_activity
    WHERE backend_type = 'client backend'
    UNION ALL
    SELECT 'the database', count(*), max(d.datconnlimit)
    FROM pg_database AS d
    JOIN pg_stat_activity AS a ON a.datid = d.oid AND a.backend_type = 'client backend'
    WHERE d.datname = current_database() AND d.datconnlimit > 0
    GROUP BY d.oid
    UNION ALL
    SELECT 'role ' || r.rolname, count(*), max(r.rolconnlimit)
    FROM pg_roles AS r
    JOIN pg_stat_activity AS a ON a.usesysid = r.oid AND a.backend_type = 'client backend'
    WHERE r.rolconnlimit > 0
    GROUP BY r.oid, r.rolname
"""
SEQUENCES: Final = """
    SELECT s.sequencename::text AS name, s.last_value AS value, s.max_value AS most
    FROM pg_sequences AS s
    WHERE quote_ident(s.schemaname) = %(schema)s
      AND s.sequencename = ANY (ARRAY['pgq_job_id', 'pgq_token'])
"""


@check()
def standby(reading: Reading) -> Iterator[Finding]:
    """Yield that nothing can be written here."""
    if reading.place["is_standby"]:
        yield Finding(
            "standby",
            "note",
            "this server is a standby",
            "Workers and producers are refused here: a standby cannot write. Workers, transactions and locks of the "
            "primary cannot be seen.",
            "Examine the primary: pgq doctor --dsn 'host=one,two target_session_attrs=read-write'",
        )
    elif reading.value("SELECT current_setting('default_transaction_read_only') = 'on'"):
        yield Finding(
            "standby",
            "error",
            "transactions are read-only here: default_transaction_read_only is on",
            "Neither producers nor workers can write, if they connect as this role does.",
            "Find out who has set it, and why, such as a full disk. ALTER SYSTEM, ALTER DATABASE or ALTER ROLE … RESET "
            "default_transaction_read_only;",
        )


@check()
def notify_queue(reading: Reading) -> Iterator[Finding]:
    """Yield that the queue of notifications fills up."""
    (row,) = reading.rows(NOTIFICATIONS)
    if row["used"] <= reading.thresholds.notify:
        return
    yield Finding(
        "notify-queue",
        "error",
        f"the queue of notifications is {row['used']:.2%} full",
        "When it is full, each transaction that notifies fails at its commit: so do enqueues while workers sleep. A "
        "session that has used LISTEN keeps all notifications while its transaction is open.",
        f"End the oldest transactions that listen: {listed(row['pids'])} are the oldest of this database. "
        "SELECT pg_terminate_backend(pid);",
        row,
    )


@check(Needs.MONITOR)
def connections(reading: Reading) -> Iterator[Finding]:
    """Yield limits of connections that are nearly reached."""
    for row in reading.rows(CONNECTIONS):
        if row["used"] <= reading.thresholds.connections * row["most"]:
            continue
        yield Finding(
            "connections",
            "warning",
            f"{row['used']} of the {number(row['most'], 'connection')} that {row['of']} allows are in use",
            "At the limit, workers and producers that connect are refused. A worker that has lost its connection then "
            "cannot come back, and loses its jobs.",
            "See who has them: SELECT usename, application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2, "
            "3 ORDER BY 4 DESC; Close those that nobody needs, start fewer workers or threads, put a pooler before "
            "producers, or raise the limit: max_connections, which takes a restart, or the CONNECTION LIMIT of the "
            "database or role.",
            row,
        )


@check(Needs.OWNER)
def sequence_end(reading: Reading) -> Iterator[Finding]:
    """Yield sequences that are nearly used up."""
    for row in reading.rows(SEQUENCES, schema=reading.schema):
        if row["value"] is None or row["value"] <= reading.thresholds.sequence * row["most"]:
            continue
        yield Finding(
            "sequence-end",
            "error",
            f"sequence {row['name']} is at {row['value']} of {row['most']}",
            "When it ends, enqueues fail." if row["name"] == "pgq_job_id" else "When it ends, claims fail.",
            f"Nothing uses up so many numbers by itself, so somebody has set the sequence. With nothing enqueued or "
            f"running above that number: SELECT setval('{reading.schema}.{row['name']}', …);",
            row,
        )


@check()
def transaction_pooler(reading: Reading) -> Iterator[Finding | Unseen]:
    """Yield that the connection leads through a pooler in transaction mode."""
    conn = reading.conn
    if reading.value("SELECT pg_backend_pid()") == conn.info.backend_pid:
        return
    dsn = make_conninfo(conn.info.dsn, **({"password": conn.info.password} if conn.info.password else {}))
    try:
        refuse_transaction_pooler(Server.resolve(dsn), "doctor")
    except TransactionPooler as error:
        yield Finding(
            "transaction-pooler",
            "warning",
            str(error),
            "Workers that connect like this must know it: their presence, their sleep and their settings would stay in "
            "sessions that others use. Without presence, the jobs of a worker that is killed wait for the ends of "
            "their leases.",
            "pgq worker MODULE --transaction-pooler; producers connect with prepare_threshold=None. Or let workers "
            "connect to the server itself.",
        )
    except psycopg.Error as error:
        yield Unseen("transaction-pooler", f"a second connection failed: {error}".splitlines()[0])


CHECKS: Final[tuple[Check, ...]] = (
    standby, notify_queue, connections, sequence_end, transaction_pooler
)  # fmt: skip
