"""A crash of the server while a session waits for a job, and after jobs have been counted."""

from __future__ import annotations

import psycopg
import pytest
from postgres.server import Server
from psycopg.conninfo import make_conninfo
from support.database import one
from support.servers import Place
from support.threads import Thread, eventually

from pgq import Queue, WorkerQueue
from pgq.schema.install import install


@pytest.mark.happens("PostgreSQL crashes while a session waits")
@pytest.mark.happens("PostgreSQL crashes after jobs have ended")
def test_a_wait_ends_with_the_server_and_the_counts_stay(place: Place) -> None:
    """After the restart a session waits for the same job, and what was counted is counted once, folded or not."""
    counted = "SELECT sum(enqueued), sum(done) FROM pgq_counters"
    with Server(bindir=place.server.bindir, durable=True) as server:
        dsn = make_conninfo(host=server.host, port=server.port, user=server.user, dbname=server.dbname)
        with psycopg.connect(dsn, autocommit=True) as conn:
            install(conn)
            worker = WorkerQueue(conn)
            for n in range(3):
                worker.enqueue("k", n)
                worker.complete(worker.claim()[0])
            conn.execute("SELECT _pgq_fold_counts(pgq_now() + interval '1 minute')")
            worker.enqueue("k", 3)
            worker.complete(worker.claim()[0])
            job = worker.enqueue("k", "waits")
            assert conn.execute(counted).fetchone() == (5, 4)
        with psycopg.connect(dsn, autocommit=True) as conn, psycopg.connect(dsn, autocommit=True) as waiter:
            thread = Thread(Queue(waiter).wait, job.id)
            listens = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND query ~ 'pgq_result' AND state = 'idle'"
            eventually(lambda: one(conn, listens, waiter.info.backend_pid))
            server.restart("immediate")
            with pytest.raises(psycopg.OperationalError):
                thread.result(30)
        with psycopg.connect(dsn, autocommit=True) as conn, psycopg.connect(dsn, autocommit=True) as waiter:
            assert conn.execute(counted).fetchone() == (5, 4)
            thread = Thread(Queue(waiter).wait, job.id)
            worker = WorkerQueue(conn)
            worker.complete(worker.claim()[0], 7)
            assert thread.result(30).value == 7
            assert conn.execute(counted).fetchone() == (5, 5)
