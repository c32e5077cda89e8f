"""The tool for partitions: a link on which packets get lost. And what the settings of a session do about that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from blackhole import Link, far_server
from conftest import Thread, eventually, one
from devpg import Server
from psycopg.conninfo import make_conninfo

SETTINGS = {
    "tcp_keepalives_idle": 3,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 9000,
}
# The same to libpq.
PARAMETERS = {"keepalives_idle": 3, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 9000}

Far = tuple[Server, Link, str]


@pytest.fixture
def far(environment: None) -> Iterator[Far]:
    """A server beyond a link."""
    with far_server({}) as far:
        yield far


def test_both_ends_of_a_session_notice_that_the_other_is_gone(far: Far) -> None:
    """Within the time that their keepalives and user timeouts set, about 9 s; who sets none does not notice."""
    server, link, dsn = far
    with (
        closing(psycopg.connect(host=server.host, user=server.user, autocommit=True)) as admin,
        closing(psycopg.connect(dsn)) as holder,
        closing(psycopg.connect(dsn, autocommit=True)) as careless,
        closing(psycopg.connect(make_conninfo(dsn, **PARAMETERS), autocommit=True)) as client,
    ):
        admin.execute("CREATE TABLE t AS SELECT 1 AS n")
        for setting, value in SETTINGS.items():
            holder.execute(f"SET {setting} = {value}".encode())
        holder.execute("UPDATE t SET n = 2")
        waiting = Thread(client.execute, "SELECT pg_sleep(60)")
        link.cut()
        begun = time.monotonic()
        admin.execute("SET lock_timeout = '30s'")
        admin.execute("UPDATE t SET n = 3")
        assert 5 < time.monotonic() - begun < 20
        with pytest.raises(psycopg.OperationalError):
            waiting.result(20)
        assert 5 < time.monotonic() - begun < 20
        there = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: one(admin, there, holder.info.backend_pid) == 0)
        assert one(admin, there, careless.info.backend_pid) == 1
        link.mend()
        assert Thread(one, careless, "SELECT n FROM t").result(10) == 3
