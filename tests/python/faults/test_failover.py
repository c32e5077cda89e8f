"""A failover to a standby: workers and producers go on, with a DSN that names both servers."""

from __future__ import annotations

import time
from datetime import timedelta

import psycopg
import pytest
from postgres.server import Server
from postgres.standby import SYNCHRONOUS, Standby
from psycopg.conninfo import make_conninfo
from support.database import Connection, jobs, one
from support.servers import Place
from support.threads import Thread, eventually

from pgq import Handlers, Job, Queue, Worker
from pgq.schema.install import install
from pgq.worker.settings import Timing


@pytest.mark.happens("PostgreSQL fails over")
def test_workers_and_producers_go_on_after_a_failover(place: Place, handlers: Handlers) -> None:
    """No acknowledged job is lost, and each has its effect once."""
    with Server(bindir=place.server.bindir, settings=SYNCHRONOUS) as primary, Standby(primary) as standby:
        dsn = make_conninfo(
            host=f"{primary.host},{standby.host}", user="postgres", target_session_attrs="read-write", connect_timeout=5
        )
        with psycopg.connect(dsn, autocommit=True) as conn:
            install(conn)
            conn.execute("CREATE TABLE effect (n integer)")
            follows = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
            eventually(lambda: one(conn, follows), "the standby is streaming", 30)

        acknowledged: list[int] = []
        stop = False

        def produce() -> None:
            n = 0
            while not stop:
                try:
                    with psycopg.connect(dsn, autocommit=True) as conn:
                        while not stop:
                            n += 1
                            Queue(conn).enqueue("write", n, backoff="0")
                            acknowledged.append(n)
                            time.sleep(0.002)
                except psycopg.OperationalError:
                    time.sleep(0.05)

        @handlers.handler("write", transaction=True)
        def write(job: Job, inside: Connection) -> None:
            inside.execute("INSERT INTO effect VALUES (%s)", [job.args])

        worker = Worker(
            dsn, handlers, concurrency=2, poll=0.05, lease=timedelta(seconds=5), timing=Timing(first_pause=0.05)
        )
        threads = [Thread(worker.run), Thread(produce)]
        eventually(lambda: len(acknowledged) > 50)
        primary.stop("immediate")
        before = len(acknowledged)
        standby.promote()
        eventually(lambda: len(acknowledged) > before + 50, "the producer goes on", 30)
        stop = True
        threads[1].result(30)
        with psycopg.connect(dsn, autocommit=True) as conn:
            assert conn.info.host == standby.host
            eventually(lambda: jobs(conn) == [], "the worker goes on", 60)
            effects = [row[0] for row in conn.execute("SELECT n FROM effect").fetchall()]
        worker.stop()
        threads[0].result(30)
    assert len(effects) == len(set(effects))
    assert set(acknowledged) <= set(effects)
