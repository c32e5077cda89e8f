"""Failures around a worker: servers that crash, sessions that are ended, and transactions that fail."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from postgres.server import Server
from psycopg.conninfo import make_conninfo
from support.database import Connect, Connection, jobs, one
from support.servers import Place
from support.threads import Thread, eventually

from pgq import Handlers, Job, Queue, Worker
from pgq.job import Claim
from pgq.schema.install import install
from pgq.views import Views
from pgq.worker.inside import Inside
from pgq.worker.settings import Timing
from pgq.worker.turn import Turn


@pytest.fixture
def worker(dsn: str, handlers: Handlers) -> Iterator[Worker]:
    """A present worker that reconnects quickly."""
    worker = Worker(dsn, handlers, poll=0.05, name="faulty", timing=Timing(first_pause=0.02))
    yield worker
    worker.stop()


def sessions(conn: Connection, like: str = "pgq faulty:%") -> list[int]:
    """Return the server processes of the worker's sessions."""
    query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s ORDER BY backend_start"
    return [row[0] for row in conn.execute(query, [like]).fetchall()]


def cut(conn: Connection, pids: list[int]) -> None:
    """End these sessions, and wait until they are gone."""
    conn.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s) AS pid", [pids])


def cut_first(conn: Connection, event: str) -> None:
    """End the session that first makes this change to a row, before it commits."""
    conn.execute("CREATE SEQUENCE cuts")
    conn.execute(
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        "IF nextval('public.cuts') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NULL; END$$"
    )
    kind = "CONSTRAINT TRIGGER" if "DEFERRED" in event else "TRIGGER"
    conn.execute(f"CREATE {kind} cut AFTER {event} FOR EACH ROW EXECUTE FUNCTION cut()".encode())


class Run:
    """A worker that runs in a thread until all jobs are done."""

    def __init__(self, conn: Connection, worker: Worker) -> None:
        self.conn = conn
        self.worker = worker
        self.thread = Thread(worker.run)

    def finish(self, left: int = 0) -> None:
        """Wait until this many jobs are left, and stop the worker."""
        eventually(lambda: len(jobs(self.conn)) == left or not self.thread.is_alive(), "the jobs are done", 30)
        self.worker.stop()
        self.thread.result(30)
        assert len(jobs(self.conn)) == left


def test_a_plain_job_survives_the_end_of_its_workers_sessions(
    conn: Connection, queue: Queue, handlers: Handlers, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """The claiming session and the presence session end during a handler; it runs once, and its job is done."""
    ran: list[int] = []

    @handlers.handler("k")
    def k(job: Job) -> None:
        ran.append(job.attempt)
        cut(conn, sessions(conn))

    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    with caplog.at_level(logging.WARNING, "pgq"):
        Run(conn, worker).finish()
    assert ran == [1, 1, 1]
    assert "the database is not available" in caplog.text


def test_jobs_whose_claim_lost_its_result_are_released(
    conn: Connection, queue: Queue, handlers: Handlers, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker releases them when it reconnects, and their attempt does not count; it keeps the jobs it knows of."""
    ran: list[tuple[int, int]] = []
    go = threading.Event()
    worker.concurrency = 2

    @handlers.handler("long")
    def long(job: Job) -> None:
        ran.append((job.args, job.attempt))
        assert go.wait(30)

    handlers.handler("k")(lambda job: ran.append((job.args, job.attempt)))
    call, losses = Turn.__call__, [1]

    def lose_the_result(self: Turn, *args: Any) -> tuple[list[int], Claim | None]:
        lost, claim = call(self, *args)
        if losses and claim is not None and "k" in claim.kinds:
            losses.pop()
            raise psycopg.OperationalError("the result is lost")
        return lost, claim

    # Patched before the loops run: a loop in the middle of a claim would get the jobs from the original method.
    monkeypatch.setattr(Turn, "__call__", lose_the_result)
    queue.enqueue("long", -1)
    run = Run(conn, worker)
    eventually(lambda: ran == [(-1, 1)])
    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    eventually(lambda: len(ran) == 4)
    assert losses == []
    go.set()
    run.finish()
    assert sorted(ran) == [(-1, 1), (0, 1), (1, 1), (2, 1)]


STEPS = {
    # How a message begins before which the session ends, and the attempt that has the effect.
    "before hold": ("BEGIN", 1),
    "before complete": ("SELECT", 2),
    # Or how it ends.
    "in the handler": (None, 2),
    "in the completion": ("DELETE ON pgq_running", 2),
    "in the commit": ("INSERT ON effect DEFERRABLE INITIALLY DEFERRED", 2),
}


@pytest.mark.happens("a connection is lost")
@pytest.mark.parametrize("batch", [None, 10])
@pytest.mark.parametrize("step", STEPS)
def test_a_transactional_job_survives_the_end_of_its_session_at_each_step(
    conn: Connection,
    queue: Queue,
    handlers: Handlers,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    batch: int | None,
) -> None:
    """Its effect is there once. An attempt whose handler had not started does not count."""
    conn.execute("CREATE TABLE effect (job bigint, attempt integer)")
    where, attempt = STEPS[step]
    cuts = [1]

    def once(pid: int) -> None:
        if cuts:
            cuts.pop()
            cut(conn, [pid])

    if where is not None and " ON " in where:
        cut_first(conn, where)
    send = Inside.send

    def cut_before(self: Inside, *statements: str) -> tuple[str, ...]:
        if where is not None and statements[0].startswith(where):
            once(self.queue().conn.info.backend_pid)
        return send(self, *statements)

    monkeypatch.setattr(Inside, "send", cut_before)

    @handlers.handler("k", transaction=True, batch=batch)
    def k(job: Job, inside: Connection) -> None:
        inside.execute("INSERT INTO effect VALUES (%s, %s)", [job.id, job.attempt])
        if step == "in the handler":
            once(inside.info.backend_pid)

    enqueued = queue.enqueue("k", backoff="0")
    Run(conn, worker).finish()
    assert cuts == [] or " ON " in str(where)
    assert conn.execute("SELECT * FROM effect").fetchall() == [(enqueued.id, attempt)]


def hold_fails(conn: Connection, action: str) -> None:
    """Let the call that first holds the second job fail, or end its session."""
    conn.execute("CREATE SEQUENCE holds")
    conn.execute(
        "CREATE OR REPLACE FUNCTION pgq_hold(id bigint, token bigint) RETURNS void LANGUAGE plpgsql AS $$BEGIN "
        f"IF id = 2 AND nextval('public.holds') = 1 THEN {action}; END IF; "
        "PERFORM FROM public.pgq_running AS r WHERE r.id = pgq_hold.id AND r.token = pgq_hold.token FOR UPDATE; "
        "END$$".encode()
    )


@pytest.mark.parametrize(
    "action",
    ["PERFORM pg_terminate_backend(pg_backend_pid())", "RAISE 'no' USING ERRCODE = '55P03'", "PERFORM 1 / 0"],
    ids=["the session ends", "lock timeout", "another error"],
)
def test_a_job_is_done_although_the_hold_of_the_next_one_fails(
    conn: Connection,
    queue: Queue,
    handlers: Handlers,
    worker: Worker,
    caplog: pytest.LogCaptureFixture,
    action: str,
) -> None:
    """The hold comes after the COMMIT, in the same message. Both jobs run once; neither is said to have failed."""
    conn.execute("CREATE TABLE effect (job bigint, attempt integer)")
    hold_fails(conn, action)

    @handlers.handler("k", transaction=True)
    def k(job: Job, inside: Connection) -> None:
        inside.execute("INSERT INTO effect VALUES (%s, %s)", [job.id, job.attempt])

    with caplog.at_level(logging.DEBUG, "pgq"):
        queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
        Run(conn, worker).finish()
    assert one(conn, "SELECT last_value FROM holds") > 1
    assert conn.execute("SELECT * FROM effect ORDER BY job").fetchall() == [(n, 1) for n in (1, 2, 3)]
    actions = [record.__dict__["action"] for record in caplog.records if "job_id" in record.__dict__]
    # A session that has ended cannot say that its transaction has committed.
    assert sorted(actions) == sorted(["lost" if "terminate" in action else "done", "done", "done"])


def test_a_job_whose_commit_fails_has_failed_and_the_next_one_is_done(
    conn: Connection, queue: Queue, handlers: Handlers, worker: Worker
) -> None:
    """A constraint that is deferred fails at the COMMIT."""
    conn.execute("CREATE TABLE parent (id bigint PRIMARY KEY)")
    conn.execute("CREATE TABLE child (id bigint REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    conn.execute("CREATE TABLE effect (job bigint)")

    @handlers.handler("k", transaction=True)
    def k(job: Job, inside: Connection) -> None:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
        if job.args % 2 == 0:
            inside.execute("INSERT INTO child VALUES (%s)", [job.id])

    queue.enqueue_many({"kind": "k", "args": n, "max_retries": 0} for n in range(4))
    Run(conn, worker).finish(left=2)
    assert jobs(conn) == [(1, "dead", 1), (3, "dead", 1)]
    assert "ForeignKeyViolation" in Views(conn).job(3)["errors"][0]["error"]
    assert conn.execute("SELECT job FROM effect ORDER BY job").fetchall() == [(2,), (4,)]


def test_a_settlement_that_ends_before_its_commit_is_repeated(
    conn: Connection, queue: Queue, handlers: Handlers, worker: Worker
) -> None:
    """The failures of a batch are recorded once, and the jobs of the claim in the same transaction are done."""
    handlers.handler("bad")(lambda job: 1 / 0)
    handlers.handler("good")(lambda job: None)
    cut_first(conn, "INSERT ON pgq_ended")
    bad = queue.enqueue("bad", max_retries=0)
    for n in range(5):
        queue.enqueue("good", n)
    Run(conn, worker).finish(left=1)
    assert jobs(conn) == [(bad.id, "dead", 1)]
    assert len(Views(conn).job(bad.id)["errors"]) == 1


@pytest.mark.happens("PostgreSQL crashes or restarts")
def test_workers_and_their_jobs_survive_a_crash_of_the_server(place: Place, handlers: Handlers) -> None:
    """
    A job that is running runs once: after the restart its worker has five seconds to register again. Effects are
    there once, whatever the crash interrupted.
    """
    begun, go = threading.Event(), threading.Event()
    plain: list[int] = []
    with Server(bindir=place.server.bindir, durable=True) as server:
        dsn = make_conninfo(host=server.host, port=server.port, user=server.user, dbname=server.dbname)
        with psycopg.connect(dsn, autocommit=True) as conn:
            install(conn)
            conn.execute("CREATE TABLE effect (job bigint)")
            queue = Queue(conn)
            slow = queue.enqueue("slow")
            queue.enqueue_many({"kind": "quick", "args": n, "backoff": "0 s"} for n in range(200))

        @handlers.handler("slow")
        def wait(job: Job) -> None:
            plain.append(job.attempt)
            begun.set()
            assert go.wait(30)

        @handlers.handler("quick", transaction=True)
        def quick(job: Job, inside: Connection) -> None:
            inside.execute("INSERT INTO effect VALUES (%s)", [job.id])

        worker = Worker(
            dsn, handlers, concurrency=2, poll=0.05, lease=timedelta(seconds=20), timing=Timing(first_pause=0.05)
        )
        thread = Thread(worker.run)
        assert begun.wait(30)
        with psycopg.connect(dsn, autocommit=True) as conn:
            # A claim is not on disk before the next synchronous commit.
            Queue(conn).enqueue("quick", "durable")
        for _ in range(2):
            server.restart("immediate")
        with psycopg.connect(dsn, autocommit=True) as conn:
            eventually(lambda: one(conn, "SELECT count(*) FROM pgq_workers WHERE present"), seconds=20)
            eventually(lambda: jobs(conn) == [(slow.id, "running", 1)], seconds=60)
            go.set()
            eventually(lambda: jobs(conn) == [])
            assert plain == [1]
            assert conn.execute("SELECT count(*), count(DISTINCT job) FROM effect").fetchone() == (201, 201)
            worker.stop()
            thread.result(30)


def deadlock(job: Job, inside: Connection, other: Connection) -> None:
    """Raise a deadlock, in which the transaction of the handler is cancelled."""
    inside.execute("SET LOCAL deadlock_timeout = '50ms'")
    other.execute("SET deadlock_timeout = '30s'")
    with other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(1)")
        inside.execute("SELECT pg_advisory_xact_lock(2)")
        waiting = Thread(other.execute, "SELECT pg_advisory_xact_lock(2)")
        try:
            inside.execute("SELECT pg_advisory_xact_lock(1)")
        finally:
            # The other transaction waits for these locks.
            inside.execute("ROLLBACK")
            waiting.result()


def serialization_failure(job: Job, inside: Connection, other: Connection) -> None:
    """Update a row that has changed since the snapshot."""
    inside.execute("COMMIT; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM account")
    other.execute("UPDATE account SET balance = 1")
    inside.execute("UPDATE account SET balance = 2")


def lock_timeout(job: Job, inside: Connection, other: Connection) -> None:
    """Wait for a row that another session keeps locked."""
    with other.transaction():
        other.execute("UPDATE account SET balance = 1")
        inside.execute("SET LOCAL lock_timeout = '50ms'")
        inside.execute("UPDATE account SET balance = 2")


def unique_violation(job: Job, inside: Connection, other: Connection) -> None:
    """Insert a duplicate key, which is a failure like any other."""
    inside.execute("INSERT INTO account VALUES (7, 1)")


FAILURES: list[tuple[Callable[..., None], str]] = [
    (serialization_failure, "40001"),
    (deadlock, "40P01"),
    (lock_timeout, "55P03"),
    (unique_violation, "23505"),
]


@pytest.mark.happens("the database refuses something within a handler")
@pytest.mark.parametrize(("fail", "sqlstate"), FAILURES, ids=[sqlstate for _, sqlstate in FAILURES])
def test_a_database_error_in_a_handler_fails_its_job(
    conn: Connection,
    connect: Connect,
    queue: Queue,
    handlers: Handlers,
    worker: Worker,
    fail: Callable[..., None],
    sqlstate: str,
) -> None:
    """The job is retried, with the SQLSTATE in its error, and the worker goes on."""
    conn.execute("CREATE TABLE account (id integer PRIMARY KEY, balance integer)")
    conn.execute("INSERT INTO account VALUES (7, 0)")
    errors: list[str] = []

    @handlers.handler("k", transaction=True)
    def k(job: Job, inside: Connection) -> None:
        if job.attempt == 1:
            fail(job, inside, connect())
        errors.append(Views(conn).job(job.id)["errors"][0]["error"])

    queue.enqueue("k", backoff="0")
    Run(conn, worker).finish()
    (error,) = errors
    assert f"(SQLSTATE {sqlstate})" in error
