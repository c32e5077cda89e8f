"""The standby of these tests: it streams from a primary, and can be promoted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from postgres.server import Server
from postgres.standby import SYNCHRONOUS, Standby
from psycopg.conninfo import make_conninfo
from support.database import one
from support.threads import eventually


@pytest.fixture
def primary(environment: None) -> Iterator[Server]:
    """A server for this test alone."""
    with Server(settings=SYNCHRONOUS) as server:
        yield server


def test_after_a_failover_the_standby_has_all_commits(primary: Server) -> None:
    """The DSN names both hosts and wants a session that can write."""
    with Standby(primary) as standby:
        dsn = make_conninfo(
            host=f"{primary.host},{standby.host}", user="postgres", target_session_attrs="read-write", connect_timeout=5
        )
        with psycopg.connect(dsn, autocommit=True) as conn:
            assert conn.info.host == primary.host
            follows = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
            eventually(lambda: one(conn, follows), "the standby is streaming", 30)
            conn.execute("CREATE TABLE kept (n int)")
            for n in range(100):
                conn.execute("INSERT INTO kept VALUES (%s)", [n])
            primary.stop("immediate")
            with pytest.raises(psycopg.OperationalError):
                conn.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="read-only"):
            psycopg.connect(dsn)
        standby.promote()
        with psycopg.connect(dsn, autocommit=True) as conn:
            assert conn.info.host == standby.host
            assert one(conn, "SELECT count(*) FROM kept") == 100
            assert one(conn, "SHOW synchronous_standby_names") == ""
            conn.execute("INSERT INTO kept VALUES (100)")
    assert not Path(standby.host).exists()
