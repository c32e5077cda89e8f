"""A link that loses all packets: what keepalives and timeouts do about it, and what a worker does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from postgres.server import Server
from psycopg.conninfo import make_conninfo
from support.blackhole import Link, far_server
from support.database import jobs, one
from support.threads import Thread, eventually

from pgq import Handlers, Job, Queue, Worker
from pgq.schema.install import install

SETTINGS = {
    "tcp_keepalives_idle": 3,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 9000,
}
# The same as parameters of libpq.
PARAMETERS = {"keepalives_idle": 3, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 9000}

Far = tuple[Server, Link, str]


@pytest.fixture
def far(environment: None) -> Iterator[Far]:
    """A server behind a link that can be cut."""
    with far_server({}) as far:
        yield far


@pytest.mark.slow
def test_both_ends_of_a_session_notice_a_cut_link(far: Far) -> None:
    """Keepalives and user timeouts let them notice after about 9 s; a session without them notices nothing."""
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
            waiting.result(30)
        assert 5 < time.monotonic() - begun < 20
        there = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: one(admin, there, holder.info.backend_pid) == 0)
        assert one(admin, there, careless.info.backend_pid) == 1
        link.mend()
        assert Thread(one, careless, "SELECT n FROM t").result(30) == 3


@pytest.mark.happens("packets to it are lost")
def test_another_worker_takes_the_job_of_an_unreachable_one(far: Far, handlers: Handlers) -> None:
    """
    It does so as soon as the server ends the session, although the lease lasts for minutes and the row is locked. When
    packets arrive again the first worker's transaction is rolled back, and it goes on with other jobs.
    """
    server, link, dsn = far
    near = make_conninfo(host=server.host, user=server.user, dbname=server.dbname)
    begun, go = threading.Event(), threading.Event()
    with psycopg.connect(near, autocommit=True) as conn:
        install(conn)
        conn.execute("CREATE TABLE effect (attempt integer)")
        conn.execute("SELECT pg_sleep_until(pg_postmaster_start_time() + interval '5.1 seconds')")
        queue = Queue(conn)

        @handlers.handler("k", transaction=True)
        def k(job: Job, inside: psycopg.Connection[Any]) -> None:
            inside.execute("INSERT INTO effect VALUES (%s)", [job.attempt])
            if job.attempt == 1:
                begun.set()
                assert go.wait(60)

        queue.enqueue("k")
        lost = Worker(dsn, handlers, poll=0.2, lease=timedelta(minutes=5))
        thread = Thread(lost.run)
        assert begun.wait(30)
        heir = Worker(near, handlers, poll=0.2)
        heirs = Thread(heir.run)
        eventually(lambda: one(conn, "SELECT count(*) FROM pgq_workers WHERE present") == 2)
        link.cut()
        since = time.monotonic()
        eventually(lambda: conn.execute("SELECT attempt FROM effect").fetchall() == [(2,)], "it runs again", 30)
        assert time.monotonic() - since < 20
        go.set()
        link.mend()
        eventually(lambda: one(conn, "SELECT count(*) FROM pgq_workers WHERE present") == 2, "it is present again", 30)
        heir.stop()
        heirs.result(30)
        queue.enqueue("k", "more")
        eventually(lambda: jobs(conn) == [], "it goes on", 30)
        lost.stop()
        thread.result(30)
        # The first attempt of the second job, which does not wait.
        assert conn.execute("SELECT attempt FROM effect ORDER BY attempt").fetchall() == [(1,), (2,)]
