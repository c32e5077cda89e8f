"""What happens in bad nights: mistakes of operators, servers at their limits, and clocks that jump."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import As, Connect, Connection, jobs, one
from support.installed import PLAIN, run
from support.pages import Page
from support.threads import Thread, eventually

from pgq import Handlers, LeaseLost, NotInstalled, Queue, Worker, WorkerQueue
from pgq.doctor.shipped import tables
from pgq.testing import Clock
from pgq.worker.settings import Timing

QUEUES = ("default", "limited", "chain", "batch")


@contextmanager
def running(dsn: str, handlers: Handlers) -> Iterator[Thread]:
    """Run a worker, which connects again quickly, in a thread; the caller lets it end or go on."""
    handlers.handler("k")(lambda job: None)
    worker = Worker(dsn, handlers, poll=0.05, name="night", timing=Timing(first_pause=0.02))
    thread = Thread(worker.run)
    eventually(lambda: worker.presence.session.idle)
    yield thread
    worker.stop()
    if thread.is_alive():
        thread.result(30)


@pytest.fixture
def owner(as_: As) -> Connection:
    """The owner of pgq, who lets the role "web" work."""
    owner = as_("owner")
    run(owner, PLAIN)
    owner.execute("SELECT pgq_grant('web', 'worker')")
    return owner


@pytest.mark.happens("pgq is dropped by mistake")
def test_a_worker_ends_when_pgq_is_dropped(conn: Connection, dsn: str, handlers: Handlers) -> None:
    with running(dsn, handlers) as thread:
        conn.execute("DROP SCHEMA public CASCADE")
        # A function that runs meanwhile finds its tables gone.
        with pytest.raises((NotInstalled, psycopg.errors.InternalError_)):
            thread.result(30)
    with pytest.raises(NotInstalled):
        Worker(dsn, handlers).run()


@pytest.mark.happens("the privilege of its role is revoked")
def test_a_worker_ends_when_it_may_not_claim(owner: Connection, dsn: str, handlers: Handlers) -> None:
    """Its jobs wait, and its error names the grant."""
    with running(make_conninfo(dsn, user="web"), handlers) as thread:
        owner.execute("SELECT pgq_revoke('web', 'worker')")
        Queue(owner).enqueue("k")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as raised:
            thread.result(30)
    assert "SELECT pgq_grant('web', 'worker')" in str(raised.value.__notes__)
    assert [(state, attempt) for _, state, attempt in jobs(owner)] == [("waiting", 0)]


@pytest.mark.happens("no connection is free")
def test_a_worker_waits_for_a_free_connection(
    conn: Connection, owner: Connection, dsn: str, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """It has lost its own, and its role may have no other one for a time."""
    with caplog.at_level(logging.WARNING, "pgq"), running(make_conninfo(dsn, user="web"), handlers):
        conn.execute("ALTER ROLE web CONNECTION LIMIT 0")
        conn.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'web'")
        Queue(owner).enqueue("k")
        eventually(lambda: "too many connections" in caplog.text)
        assert [(state, attempt) for _, state, attempt in jobs(owner)] == [("waiting", 0)]
        conn.execute("ALTER ROLE web CONNECTION LIMIT -1")
        eventually(lambda: jobs(owner) == [], "the job is done", 30)


@pytest.mark.happens("the server has used up its transaction ids")
def test_a_worker_waits_while_the_server_refuses_to_write(
    conn: Connection, queue: Queue, dsn: str, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """A trigger raises what PostgreSQL raises then."""
    text = "database is not accepting commands"
    conn.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$BEGIN RAISE '{text}' USING ERRCODE = 'program_limit_exceeded'; END$$".encode()
    )
    with caplog.at_level(logging.WARNING, "pgq"), running(dsn, handlers):
        conn.execute("CREATE TRIGGER refuse BEFORE INSERT ON pgq_running EXECUTE FUNCTION refuse()")
        queue.enqueue("k")
        eventually(lambda: text in caplog.text)
        assert [(state, attempt) for _, state, attempt in jobs(conn)] == [("waiting", 0)]
        conn.execute("DROP TRIGGER refuse ON pgq_running")
        eventually(lambda: jobs(conn) == [], "the job is done", 30)


def in_every_table(queue: WorkerQueue) -> None:
    """Leave rows in the tables of pgq: jobs in every state, with errors, needs, signals, settings and schedules."""
    queue.configure("limited", {"max_running": 5, "rate": 1000, "per": "1 second", "burst": 1000})
    queue.pause("paused")
    queue.schedule("nightly", "0 3 * * *", "k")
    queue.register("w", ["default"])
    for name in ("default", "limited"):
        queue.enqueue_many(
            [{"kind": "k", "args": n, "queue": name, "max_retries": n % 2, "backoff": "0"} for n in range(6)]
        )
        for job in queue.claim([name], max_jobs=4, worker="w"):
            if job.args == 0:
                queue.complete(job, {"kept": True})
            elif job.args < 3:
                queue.save(job, {"seen": 1})
                queue.fail(job, "no")
    queue.enqueue("later", delay="1 day", dedup_key="d", dedup_for="1 day")
    queue.signal(queue.enqueue("waits").id, "go")
    first = queue.enqueue("first", queue="chain")
    queue.enqueue("second", queue="chain", after=[first.id])
    queue.enqueue_batch("last", None, [{"kind": "k", "args": "of a batch", "queue": "batch"}])
    queue.enqueue_many([{"kind": "packed", "args": n} for n in range(20)])
    queue.conn.execute("SELECT pgq_claim_batch(max_jobs => 10, worker => 'packer')")


@pytest.mark.happens("a table of pgq is truncated by mistake")
@pytest.mark.parametrize("table", tables())
def test_a_queue_goes_on_after_a_table_was_truncated(
    conn: Connection, connect: Connect, queue: WorkerQueue, table: str
) -> None:
    """What was in the table is gone; sessions that know it, and new ones, go on with what is left and with new jobs."""
    in_every_table(queue)
    conn.execute(f"TRUNCATE {table}".encode())
    kinds: set[str] = set()
    for session in (queue, WorkerQueue(connect())):
        new = [session.enqueue("new", name, queue=name, dedup=False).id for name in QUEUES]
        # The first look at needs begins anywhere.
        for _ in range(3):
            session.conn.execute("SELECT _pgq_settle_blocked(pgq_now())")
        for name in QUEUES:
            while claimed := session.claim([name], max_jobs=100):
                for job in claimed:
                    kinds.add(job.kind)
                    session.complete(job)
        assert one(conn, "SELECT count(*) FROM pgq_jobs WHERE id = ANY (%s)", new) == 0
    # A prerequisite that is nowhere counts as done.
    assert ("second" in kinds) is (table not in {"pgq_blocked", "pgq_need"})


@pytest.mark.happens("the clock of the server jumps ahead")
def test_leases_end_when_the_clock_jumps_ahead(queue: WorkerQueue, connect: Connect, clock: Clock) -> None:
    """Another worker gets the job, and the first one cannot record anything."""
    queue.enqueue("k")
    (first,) = queue.claim(lease="5 minutes")
    clock.tick(timedelta(hours=1))
    other = WorkerQueue(connect())
    other.claim(["other"])
    (second,) = other.claim()
    assert (second.id, second.attempt) == (first.id, 2)
    with pytest.raises(LeaseLost):
        queue.complete(first)
    other.complete(second)


@pytest.mark.happens("the clock of the server is set back by an hour")
def test_jobs_of_an_hour_wait_when_the_clock_is_set_back(
    conn: Connection, queue: WorkerQueue, connect: Connect, clock: Clock
) -> None:
    """What runs is completed, what is new runs at once; one statement makes the others ripe."""
    queue.enqueue("k", "runs")
    (running_,) = queue.claim()
    queue.enqueue("k", "before")
    clock.tick(timedelta(hours=-1))
    other = WorkerQueue(connect())
    assert other.claim() == []
    queue.complete(running_)
    other.enqueue("k", "after")
    (job,) = other.claim()
    assert (job.args, job.token > running_.token) == ("after", True)
    (update,) = re.findall(r"^SELECT count\(pgq_update\(.*?;$", Page("docs/doctor.md").text, re.DOTALL | re.MULTILINE)
    assert one(conn, update) == 1
    assert [job.args for job in other.claim()] == ["before"]
