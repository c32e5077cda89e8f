"""The doctor finds what the server runs out of, poolers, timeouts, and clocks that are wrong."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest
from support.database import As, Connect, Connection
from support.doctor import finding, findings
from support.pgbouncer import pgbouncer
from support.servers import Place
from support.threads import eventually

from pgq import Queue, WorkerQueue, install
from pgq.testing import Clock


def test_the_queue_of_notifications_fills_up(conn: Connection, connect: Connect) -> None:
    """A session that listens and stays in its transaction keeps them. It is named."""
    listener = connect(autocommit=False)
    listener.execute("LISTEN something")
    listener.commit()
    listener.execute("SELECT 1")
    for n in range(30):
        conn.execute("SELECT pg_notify('something', %s)", [f"{n}".ljust(7000)])
    assert findings(conn, "notify-queue") == []
    found = finding(conn, "notify-queue", notify=0.0)
    assert found.severity == "error"
    assert listener.info.backend_pid in found.details["pids"]


def test_connections_near_their_limit(conn: Connection, connect: Connect) -> None:
    """The limit may be that of the server, the database or a role."""
    assert findings(conn, "connections") == []
    conn.execute(f"ALTER DATABASE {conn.info.dbname} CONNECTION LIMIT 2".encode())
    connect()
    eventually(lambda: findings(conn, "connections"))
    found = finding(conn, "connections")
    assert found.title == "2 of the 2 connections that the database allows are in use"
    conn.execute(f"ALTER DATABASE {conn.info.dbname} CONNECTION LIMIT 20".encode())
    assert findings(conn, "connections") == []
    assert finding(conn, "connections", connections=0.09).details["most"] == 20


@pytest.mark.parametrize(("sequence", "end"), [("pgq_job_id", 2**63 - 10), ("pgq_token", 2**53 - 10)])
def test_a_sequence_that_is_nearly_used_up(conn: Connection, queue: WorkerQueue, sequence: str, end: int) -> None:
    """Nothing but setval gets so far."""
    queue.enqueue("k")
    queue.claim()
    assert findings(conn, "sequence-end") == []
    conn.execute(f"SELECT setval('{sequence}', {end})".encode())
    assert finding(conn, "sequence-end").details["name"] == sequence


def test_transactions_that_are_read_only(conn: Connection) -> None:
    """An operator may have set this when the disk was full."""
    assert findings(conn, "standby") == []
    conn.execute("SET default_transaction_read_only = on")
    found = finding(conn, "standby")
    assert (found.severity, found.title) == (
        "error",
        "transactions are read-only here: default_transaction_read_only is on",
    )


@pytest.mark.slow
def test_a_pooler_in_transaction_mode(conn: Connection, place: Place, dsn: str) -> None:
    """One in session mode is no finding, and neither is a direct connection."""
    assert findings(conn, "transaction-pooler") == []
    for pool_mode, count in (("session", 0), ("transaction", 1)):
        with (
            pgbouncer(place.server, dsn, pool_mode=pool_mode) as pooled,
            psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as through,
        ):
            found = findings(through, "transaction-pooler")
            assert len(found) == count
    assert "--transaction-pooler" in found[0].remedy


def test_a_timeout_that_is_too_short(conn: Connection) -> None:
    """That of the database is for all roles. The remedy sets the shortest that is not."""
    assert findings(conn, "short-timeout") == []
    name = conn.info.dbname
    conn.execute(f"ALTER DATABASE {name} SET statement_timeout = '500ms'".encode())
    conn.execute(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = 10000".encode())
    first, second = findings(conn, "short-timeout")
    assert "idle_in_transaction_session_timeout of role " in first.title
    assert first.title.endswith("is 10 seconds")
    assert second.details["value"] == "500ms"
    assert second.remedy.startswith(f"ALTER DATABASE {name} SET statement_timeout = '5s';")
    for found in (first, second):
        conn.execute(found.remedy.split("; ")[0].encode())
    assert findings(conn, "short-timeout") == []


def test_a_timeout_of_the_role_of_workers(conn: Connection, as_: As) -> None:
    """That of another role is its own affair."""
    install(as_("owner"))
    for role in ("web", "owner"):
        conn.execute(f"ALTER ROLE {role} RESET ALL".encode())
    conn.execute("ALTER ROLE web SET idle_session_timeout = '1s'")
    try:
        assert findings(conn, "short-timeout") == []
        Queue(conn).grant("web", "worker")
        found = finding(conn, "short-timeout")
        assert found.title == 'idle_session_timeout of role "web", under which workers run, is 1 second'
        assert found.remedy.startswith("ALTER ROLE web SET idle_session_timeout = '5s';")
        name = conn.info.dbname
        conn.execute(f"ALTER ROLE web IN DATABASE {name} SET idle_session_timeout = '3h'".encode())
        assert findings(conn, "short-timeout") == []
        conn.execute(f"ALTER DATABASE {name} SET idle_session_timeout = '2s'".encode())
        assert finding(conn, "short-timeout").details["role"] == "owner"
    finally:
        conn.execute("ALTER ROLE web RESET ALL")
        conn.execute(f"ALTER ROLE web IN DATABASE {conn.info.dbname} RESET ALL".encode())


def test_clocks_that_are_apart(conn: Connection, clock: Clock) -> None:
    """The clock of this process is stopped in another year than that of the server."""
    found = finding(conn, "clock-skew")
    assert found.details["client"].startswith("2030-01-01T12:00:00")
    assert abs(found.details["seconds"]) > 86400
    assert findings(conn, "clock-skew", skew=timedelta(days=36500)) == []


def test_a_clock_that_went_back(conn: Connection, queue: WorkerQueue, clock: Clock) -> None:
    """What was written before is ahead of it."""
    queue.enqueue("k", max_retries=0)
    (job,) = queue.claim()
    queue.fail(job, "no")
    assert findings(conn, "clock-went-back") == []
    clock.move_to("2030-01-01 11:00")
    found = finding(conn, "clock-went-back")
    assert found.title == "the clock of the server was set back: the end of a job is 60 minutes ahead of it"
    conn.execute("DELETE FROM pgq_ended")
    assert "the token of the last claim is 50 minutes ahead" in finding(conn, "clock-went-back").title
    clock.move_to("2030-01-01 12:00")
    assert findings(conn, "clock-went-back") == []


def test_after_a_crash_the_clock_has_not_gone_back(conn: Connection, queue: WorkerQueue) -> None:
    """Tokens are moved on by a minute each time, and stay behind the clock plus ten."""
    for _ in range(3):
        conn.execute("DELETE FROM pgq_head")
        queue.enqueue("k")
        with psycopg.connect(conn.info.dsn, autocommit=True) as session:
            WorkerQueue(session).claim()
    assert findings(conn, "clock-went-back") == []
