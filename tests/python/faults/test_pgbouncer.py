"""Behind a pooler: PgBouncer in transaction mode."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from support.database import Connection, one
from support.pgbouncer import pgbouncer
from support.servers import Place
from support.threads import Thread, eventually

from pgq import Handlers, Job, NewJob, Queue, Result, Worker, WorkerQueue


@pytest.fixture
def pooled(place: Place, dsn: str) -> Iterator[str]:
    """A connection string that leads to the database of this test through PgBouncer."""
    with pgbouncer(place.server, dsn) as way:
        yield way


def test_a_pooled_session_is_shared_between_transactions(conn: Connection, pooled: str) -> None:
    """psycopg works without prepared statements, but its settings reach the next client of the server's session."""
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


@pytest.mark.happens("a pooler in transaction mode is before the server")
def test_a_worker_without_presence_and_notifications_works_behind_a_pooler(
    conn: Connection, queue: Queue, pooled: str, handlers: Handlers
) -> None:
    """
    It runs all kinds of handlers, and extends leases. In sessions that the pooler hands on it leaves no setting, no
    lock, no channel and no prepared statement.
    """
    conn.execute("CREATE TABLE effect (job bigint, attempt integer)")
    plain: list[tuple[int, int]] = []

    @handlers.handler("plain")
    def run(job: Job) -> None:
        plain.append((job.args, job.attempt))
        if job.args == 0:
            eventually(lambda: one(conn, "SELECT lease_until FROM pgq_running WHERE id = %s", job.id) > job.lease_until)

    @handlers.handler("inside", transaction=True)
    def write(job: Job, inside: Connection) -> None:
        inside.execute("INSERT INTO effect VALUES (%s, %s)", [job.id, job.attempt])
        if job.attempt == 1 and job.args == 0:
            raise ValueError

    handlers.handler("listed", batch=10)(lambda jobs: {job.id: "kept" for job in jobs})
    jobs_: list[NewJob] = [
        {"kind": kind, "args": n, "backoff": "0 s"} for n in range(30) for kind in ("plain", "inside", "listed")
    ]
    queue.enqueue_many(jobs_)
    worker = Worker(pooled, handlers, concurrency=3, poll=0.02, lease=timedelta(seconds=9), transaction_pooler=True)
    thread = Thread(worker.run)
    pending = "SELECT count(*) FROM pgq_jobs WHERE state IN ('waiting', 'running')"
    eventually(lambda: one(conn, pending) == 0, seconds=60)
    worker.stop()
    thread.result(30)
    assert sorted(plain) == [(n, 1) for n in range(30)]
    assert conn.execute("SELECT count(*), count(DISTINCT job), max(attempt) FROM effect").fetchone() == (30, 30, 2)
    assert one(conn, "SELECT count(*) FROM pgq_jobs WHERE state = 'done'") == 30
    with psycopg.connect(pooled, prepare_threshold=None) as other:
        assert one(other, "SELECT count(*) FROM pg_prepared_statements") == 0
        assert one(other, "SELECT count(*) FROM pg_listening_channels()") == 0
        # The pooler itself sets application_name.
        mine = "name LIKE 'pgq.%' OR name = 'application_name'"
        changed = f"SELECT name FROM pg_settings WHERE source = 'session' AND NOT ({mine})".encode()
        assert other.execute(changed).fetchall() == []
        assert one(other, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


def test_a_wait_asks_instead_and_leaves_nothing_in_sessions_that_are_shared(
    conn: Connection, queue: WorkerQueue, pooled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no lock, listens to no channel, and finds the end of the job."""
    job = queue.enqueue("k")
    with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as client:
        waiter = Queue(client)
        look, looks = waiter.result, []

        def counted(job_id: int) -> Result:
            looks.append(job_id)
            return look(job_id)

        monkeypatch.setattr(waiter, "result", counted)
        thread = Thread(waiter.wait, job.id)
        eventually(lambda: len(looks) > 3)
        assert one(conn, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
        queue.complete(queue.claim()[0], 7)
        assert thread.result(20).value == 7
        assert one(client, "SELECT count(*) FROM pg_listening_channels()") == 0
