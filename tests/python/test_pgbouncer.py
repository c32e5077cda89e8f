"""The tool for what is different behind a pooler: PgBouncer in transaction mode."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from conftest import Connection, Place, one
from pgbouncer import pgbouncer


@pytest.fixture
def pooled(place: Place, dsn: str) -> Iterator[str]:
    """The way to the database of this test through PgBouncer."""
    with pgbouncer(place.server, dsn) as way:
        yield way


def test_a_pooled_session_keeps_nothing_from_one_transaction_to_the_next(conn: Connection, pooled: str) -> None:
    """Without prepared statements psycopg works, but what it sets goes to whoever comes next."""
    with (
        psycopg.connect(pooled, prepare_threshold=None) as a,
        psycopg.connect(pooled, prepare_threshold=None) as b,
    ):
        a.execute("SET work_mem = '123kB'")
        assert one(a, "SHOW work_mem") == "123kB"
        pid = one(a, "SELECT pg_backend_pid()")
        a.commit()
        assert (one(b, "SELECT pg_backend_pid()"), one(b, "SHOW work_mem")) == (pid, "123kB")
        assert (one(a, "SELECT pg_backend_pid()") != pid, one(a, "SHOW work_mem")) == (True, one(conn, "SHOW work_mem"))
        for n in range(10):
            assert one(a, "SELECT %s::int", n) == n
            a.commit()
