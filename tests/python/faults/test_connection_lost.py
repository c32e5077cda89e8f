"""A worker that loses its connection goes on, and runs no job twice."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from support.database import Connection, jobs
from support.threads import Thread, eventually
from support.workers import MakeWorker, drain

from pgq import Handlers, Job, Queue, Worker
from pgq.worker.inside import Inside
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing

# Past its first statements: a failure before them counts as no connection at all, not as a lost one.
# A sleeping session has the lock of a bucket.
IDLE = (
    "SELECT DISTINCT l.pid FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database "
    "WHERE d.datname = current_database() AND l.classid = 'pgq_waiting'::regclass AND l.mode = 'ShareLock'"
)


@pytest.fixture
def worker(dsn: str, handlers: Handlers) -> Iterator[Worker]:
    """A worker that reconnects at once."""
    worker = Worker(dsn, handlers, poll=0.02, name="lost", timing=Timing(first_pause=0.01))
    yield worker
    worker.close()


def cut(conn: Connection) -> None:
    """End the session of the worker, and wait until it is gone."""
    conn.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE 'pgq lost:%%'"
    ).fetchall()


def run_until_empty(conn: Connection, worker: Worker) -> None:
    """Run the worker until no job is left."""
    thread = Thread(worker.run)
    eventually(lambda: jobs(conn) == [] or not thread.is_alive())
    worker.stop()
    thread.result(30)
    assert jobs(conn) == []


@pytest.mark.happens("a connection is lost")
def test_an_outcome_survives_a_connection_lost_before_it_is_settled(
    queue: Queue, worker: Worker, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """The handler does not run again: the next connection settles the outcome."""
    ran: list[int] = []

    @handlers.handler("k")
    def work(job: Job) -> None:
        ran.append(job.args)
        if job.args == 1:
            cut(queue.conn)

    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    with caplog.at_level(logging.WARNING, "pgq"):
        run_until_empty(queue.conn, worker)
    assert sorted(ran) == [0, 1, 2]
    assert re.search("terminating connection|server closed the connection", caplog.text)


@pytest.mark.happens("a connection is lost")
@pytest.mark.parametrize("how", ["cut", "close", "close and return"])
def test_a_transactional_job_whose_connection_is_lost_has_failed(
    queue: Queue, loop: Loop, handlers: Handlers, how: str
) -> None:
    """
    The server or the handler closes it, and the handler may notice or not. The writes are gone, another connection of
    the worker records the failure, and the other jobs are done.
    """
    conn = queue.conn
    conn.execute("CREATE TABLE effect (job bigint)")
    neighbours: list[tuple[int, int]] = []

    @handlers.handler("k", transaction=True)
    def work(job: Job, inside: Connection) -> None:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
        if job.attempt > 1:
            return
        if how == "cut":
            conn.execute("SELECT pg_terminate_backend(%s, 5000)", [inside.info.backend_pid])
        else:
            inside.close()
        if how != "close and return":
            inside.execute("SELECT 1")

    handlers.handler("neighbour")(lambda job: neighbours.append((job.args, job.attempt)))
    enqueued = queue.enqueue("k", backoff="0")
    queue.enqueue_many({"kind": "neighbour", "args": n} for n in range(3))
    drain(loop)
    assert jobs(conn) == []
    assert neighbours == [(0, 1), (1, 1), (2, 1)]
    assert conn.execute("SELECT job FROM effect").fetchall() == [(enqueued.id,)]


def test_an_idle_worker_reconnects_each_time_its_connection_is_cut(
    queue: Queue, worker: Worker, handlers: Handlers
) -> None:
    ran: list[int] = []
    handlers.handler("k")(lambda job: ran.append(job.args))
    thread = Thread(worker.run)
    for n in range(3):
        old = eventually(lambda: queue.conn.execute(IDLE).fetchall())
        cut(queue.conn)
        eventually(lambda before=old: queue.conn.execute(IDLE).fetchall() not in ([], before))  # type: ignore[misc]
        queue.enqueue("k", n)
        eventually(lambda: jobs(queue.conn) == [])
    worker.stop()
    thread.result(30)
    assert ran == [0, 1, 2]


def test_a_claim_cut_before_its_commit_takes_no_job(queue: Queue, worker: Worker, handlers: Handlers) -> None:
    """The jobs are ripe at once, lose no attempt, and run once."""
    conn = queue.conn
    ran: list[tuple[int, int]] = []
    handlers.handler("k")(lambda job: ran.append((job.args, job.attempt)))
    conn.execute("CREATE SEQUENCE cuts")
    conn.execute(
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        "IF nextval('public.cuts') <= 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NULL; END$$"
    )
    conn.execute("CREATE TRIGGER cut AFTER INSERT ON pgq_running FOR EACH STATEMENT EXECUTE FUNCTION cut()")
    queue.enqueue_many({"kind": "k", "args": n} for n in range(5))
    run_until_empty(conn, worker)
    assert ran == [(n, 1) for n in range(5)]


def test_a_worker_that_cannot_connect_at_the_start_raises(dsn: str, handlers: Handlers) -> None:
    """A wrong DSN is a more likely reason than a restart of the server."""
    worker = Worker(dsn.replace("pgq_test", "pgq_nowhere"), handlers)
    with pytest.raises(psycopg.OperationalError, match="pgq_nowhere"):
        worker.run()


def test_an_error_that_a_new_connection_cannot_mend_ends_the_worker(conn: Connection, worker: Worker) -> None:
    """Here a function of pgq is missing."""
    conn.execute("DROP FUNCTION pgq_claim_batch CASCADE")
    with pytest.raises(Exception, match="pgq_claim_batch"):
        worker.run()


@pytest.mark.happens("the database is full or read-only")
def test_a_worker_waits_while_the_database_is_read_only(
    conn: Connection, queue: Queue, worker: Worker, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a failover, it reconnects until it finds a server that takes writes."""
    handlers.handler("k")(lambda job: None)
    name = conn.info.dbname
    with caplog.at_level(logging.WARNING, "pgq"):
        thread = Thread(worker.run)
        eventually(lambda: worker.presence.session.idle)
        conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
        cut(conn)
        queue.enqueue("k")
        eventually(lambda: "read-only" in caplog.text, "the worker meets the read-only database")
        conn.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
        eventually(lambda: jobs(conn) == [], "the job is done")
    worker.stop()
    thread.result(30)


def test_a_job_whose_connection_is_lost_before_its_handler_is_released(
    queue: Queue, worker: Worker, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for its lease, and the attempt does not count."""
    attempts: list[int] = []
    handlers.handler("k", transaction=True)(lambda job, conn: attempts.append(job.attempt))
    queue.enqueue("k", max_retries=0)
    send, cuts = Inside.send, [1]

    def cut_before(self: Inside, *statements: str) -> tuple[str, ...]:
        if cuts:
            cuts.pop()
            cut(queue.conn)
        return send(self, *statements)

    monkeypatch.setattr(Inside, "send", cut_before)
    run_until_empty(queue.conn, worker)
    assert cuts == []
    assert attempts == [1]


def test_a_job_behind_a_lost_connection_is_released(queue: Queue, worker: Worker, handlers: Handlers) -> None:
    """The outcomes before it cannot be settled at its turn. It does not wait for its lease, and loses no attempt."""
    attempts: list[int] = []
    handlers.handler("plain")(lambda job: cut(queue.conn))
    handlers.handler("transactional", transaction=True)(lambda job, conn: attempts.append(job.attempt))
    queue.enqueue_many([{"kind": "plain"}, {"kind": "transactional", "max_retries": 0}])
    run_until_empty(queue.conn, worker)
    assert attempts == [1]


def test_a_slow_handler_outlasts_an_outage(
    queue: Queue,
    make_worker: MakeWorker,
    handlers: Handlers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While it runs, its worker tries only rarely to settle the earlier outcomes."""
    worker = make_worker(timing=Timing(settle_again=60.0))
    loop = worker.loops[0]
    tried: list[int] = []
    connect = psycopg.connect

    def refuse(*args: Any, **kwargs: Any) -> Any:
        tried.append(1)
        raise psycopg.OperationalError("no server")

    @handlers.handler("k")
    def work(job: Job) -> None:
        if job.args == 1:
            monkeypatch.setattr(psycopg, "connect", refuse)
            loop.session.queue().conn.close()
            eventually(lambda: tried)
            time.sleep(0.3)
            monkeypatch.setattr(psycopg, "connect", connect)

    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    with caplog.at_level(logging.WARNING, "pgq"):
        run_until_empty(queue.conn, worker)
    assert tried == [1]
    assert caplog.text.count("no server") == 1


def test_the_ticker_thread_survives_any_error(
    queue: Queue, loop: Loop, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It logs the error; if the error persists the loop meets it, too."""
    settle, errors = Loop.settle, [RuntimeError("once")]

    def fail_once(self: Loop, *, patient: bool = True) -> None:
        if errors:
            raise errors.pop()
        settle(self, patient=patient)

    monkeypatch.setattr(Loop, "settle", fail_once)

    @handlers.handler("k")
    def work(job: Job) -> None:
        if job.args == 1:
            eventually(lambda: not errors)
        if job.args == 3:
            eventually(lambda: len(jobs(queue.conn)) == 1)

    for n in range(4):
        queue.enqueue("k", n)
        if n % 2:
            loop.turn()
    drain(loop)
    assert jobs(queue.conn) == []
