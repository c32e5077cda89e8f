"""A worker of several databases: fair between them, and one that fails stops none of the others."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from support.database import Connection, jobs, one
from support.proxy import Proxy
from support.threads import Thread, eventually

from pgq import Drain, Handlers, Job, NotInstalled, Queue, Worker
from pgq.worker.databases import Databases
from pgq.worker.settings import Timing

TIMING = Timing(first_pause=0.05, longest_pause=0.1)


Serve = Callable[..., Databases]


@pytest.fixture
def serve(dsn: str, other_dsn: str, handlers: Handlers) -> Iterator[Serve]:
    """Serve databases by these names in a thread, by default "one" and "two"; the thread ends with the test."""
    running: list[tuple[Databases, Thread]] = []

    def serve(
        dsns: dict[str, str] | None = None, max_jobs: int | None = None, timing: Timing = TIMING, **options: Any
    ) -> Databases:
        found = dsns or {"one": dsn, "two": other_dsn}

        def make(name: str) -> Worker:
            return Worker(found[name], handlers, timing=timing, **{"poll": 0.05} | options)

        databases = Databases(list(found), make, max_jobs=max_jobs, timing=timing)
        running.append((databases, Thread(databases.run)))
        return databases

    yield serve
    for databases, thread in running:
        databases.stop()
        thread.result()


def result(databases: Databases) -> None:
    """Wait until no database is served any more."""
    eventually(lambda: all(one.worker is None for one in databases.databases) and databases.drained)


def test_each_job_runs_once_in_its_own_database(
    conn: Connection, other: Connection, handlers: Handlers, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """The ids are the same in both; the job and the log name the database."""
    ran: list[tuple[str | None, int]] = []

    @handlers.handler("write", transaction=True)
    def write(job: Job, inside: Connection) -> None:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.args])
        ran.append((job.database, job.id))

    handlers.handler("fail")(lambda job: 1 / 0)
    for number, queue in enumerate((Queue(conn), Queue(other))):
        queue.conn.execute("CREATE TABLE effect (n integer)")
        queue.enqueue_many({"kind": "write", "args": 100 * number + n} for n in range(20))
        queue.enqueue("fail", max_retries=0)
    with caplog.at_level(logging.INFO, "pgq"):
        result(serve(drain=Drain(until_empty=False)))
    for number, queue in enumerate((Queue(conn), Queue(other))):
        found = queue.conn.execute("SELECT n FROM effect ORDER BY n").fetchall()
        assert found == [(100 * number + n,) for n in range(20)]
    assert sorted(ran, key=str) == sorted([(name, n) for name in ("one", "two") for n in range(1, 21)], key=str)
    lines = {(record.levelname, record.database) for record in caplog.records}  # type: ignore[attr-defined]
    assert lines == {(level, name) for level in ("INFO", "ERROR") for name in ("one", "two")}


def test_the_only_database_of_a_worker_has_no_name(
    conn: Connection, queue: Queue, handlers: Handlers, make_worker: Callable[..., Worker]
) -> None:
    queue.enqueue("k")
    seen: list[str | None] = []
    handlers.handler("k")(lambda job: seen.append(job.database))
    make_worker(drain=Drain(until_empty=False)).run()
    assert seen == [None]


@pytest.mark.slow
def test_two_databases_with_a_backlog_get_about_half_each(
    conn: Connection, other: Connection, handlers: Handlers, serve: Serve
) -> None:
    """Also where the jobs of one take three times as long: then the shares of time are about the same."""
    spent = {"one": 0.0, "two": 0.0}
    seconds = {"one": 0.003, "two": 0.001}
    both = threading.Event()

    @handlers.handler("k")
    def compute(job: Job) -> None:
        assert job.database is not None
        if all(spent.values()):
            both.set()
        began = time.thread_time()
        while time.thread_time() < began + seconds[job.database]:
            pass
        spent[job.database] += time.thread_time() - began if both.is_set() else 1e-9

    for queue in (Queue(conn), Queue(other)):
        queue.enqueue_many({"kind": "k", "args": n} for n in range(3000))
    databases = serve()
    eventually(lambda: sum(spent.values()) > 1.5, "one and a half second of work", 60)
    databases.stop()
    share = spent["one"] / sum(spent.values())
    assert 0.3 < share < 0.7


def test_one_that_is_down_stops_none_of_the_others(
    dsn: str, conn: Connection, other: Connection, other_dsn: str, handlers: Handlers, serve: Serve, proxy: Proxy,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """It is down at the start, works, and is down again; each time the log says so, and it is served afterwards."""
    done: list[tuple[str | None, Any]] = []
    handlers.handler("k")(lambda job: done.append((job.database, job.args)))
    proxy.refuse()
    databases = serve({"one": proxy.lead(dsn), "two": other_dsn})
    for turn in range(2):
        eventually(lambda: "the database is not available" in caplog.text)
        for queue in (Queue(conn), Queue(other)):
            queue.enqueue("k", turn)
        eventually(lambda turn=turn: ("two", turn) in done)  # type: ignore[misc]
        assert ("one", turn) not in done
        assert databases.is_well()
        proxy.accept()
        eventually(lambda turn=turn: ("one", turn) in done)  # type: ignore[misc]
        proxy.refuse()
        proxy.cut()
        caplog.clear()


def test_one_that_is_frozen_stops_none_of_the_others(
    dsn: str, conn: Connection, other: Connection, other_dsn: str, handlers: Handlers, serve: Serve, proxy: Proxy
) -> None:
    """Its server takes what it is sent, and does not reply: within a transaction of a handler, and later in a claim."""
    done: list[tuple[str | None, Any]] = []

    @handlers.handler("k", transaction=True)
    def work(job: Job, inside: Connection) -> None:
        if job.args == 0 and job.database == "one":
            proxy.stall("to client")
        inside.execute("SELECT 1")
        done.append((job.database, job.args))

    serve({"one": proxy.lead(dsn), "two": other_dsn})
    Queue(conn).enqueue("k", 0)
    eventually(lambda: not proxy.flows["to client"].is_set())
    for n in range(50):
        Queue(other).enqueue("k", n)
        eventually(lambda n=n: ("two", n) in done)  # type: ignore[misc]
    assert ("one", 0) not in done
    proxy.resume()
    eventually(lambda: ("one", 0) in done)
    eventually(lambda: jobs(conn) == [])


@pytest.mark.happens("one of several databases is not available")
def test_one_that_is_read_only_is_told_and_tried_again(
    dsn: str, conn: Connection, other: Connection, handlers: Handlers, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """It is so at the start, and becomes so while it is served."""
    done: list[tuple[str | None, Any]] = []
    handlers.handler("k")(lambda job: done.append((job.database, job.args)))
    name = sql.Identifier(conn.info.dbname)
    read_only = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name)
    reset = sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name)
    cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s AND pid <> %s"
    other.execute(read_only)
    serve()
    for turn in range(2):
        eventually(lambda: "the database is read-only" in caplog.text)
        for queue in (Queue(conn), Queue(other)):
            queue.enqueue("k", turn)
        eventually(lambda turn=turn: ("two", turn) in done)  # type: ignore[misc]
        assert ("one", turn) not in done
        other.execute(reset)
        eventually(lambda turn=turn: ("one", turn) in done)  # type: ignore[misc]
        caplog.clear()
        other.execute(read_only)
        other.execute(cut, [conn.info.dbname, conn.info.backend_pid])


def test_a_database_without_pgq_is_told_and_tried_again(
    conn: Connection, other: Connection, handlers: Handlers, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that is upgraded later: the worker of a single database would end."""
    done: list[str | None] = []
    handlers.handler("k")(lambda job: done.append(job.database))
    conn.execute("ALTER SCHEMA public RENAME TO hidden")
    serve()
    Queue(other).enqueue("k")
    eventually(lambda: done == ["two"])
    eventually(lambda: "the worker of the database has ended" in caplog.text)
    told = [record for record in caplog.records if "has ended" in record.message]
    assert {record.database for record in told} == {"one"}  # type: ignore[attr-defined]
    assert "pgq install" in told[0].message
    assert not told[0].exc_info
    conn.execute("ALTER SCHEMA hidden RENAME TO public")
    Queue(conn).enqueue("k")
    eventually(lambda: done == ["two", "one"])


def test_if_none_works_at_the_start_the_first_error_is_raised(
    dsn: str, conn: Connection, other_dsn: str, handlers: Handlers, tmp_path: Path
) -> None:
    conn.execute("ALTER SCHEMA public RENAME TO hidden")
    dsns = {"one": dsn, "two": make_conninfo(other_dsn, host=str(tmp_path))}
    for names, error in ((["one", "two"], NotInstalled), (["two", "one"], psycopg.OperationalError)):
        databases = Databases(names, lambda name: Worker(dsns[name], handlers), timing=TIMING)
        with pytest.raises(error):
            databases.run()
        assert not databases.drained


def test_a_stop_ends_all_and_each_finishes_its_jobs(
    conn: Connection, other: Connection, handlers: Handlers, serve: Serve
) -> None:
    """Jobs that have not begun go back, with no attempt lost."""
    begun, go = threading.Semaphore(0), threading.Event()

    @handlers.handler("k")
    def wait(job: Job) -> None:
        begun.release()
        go.wait(30)

    for queue in (Queue(conn), Queue(other)):
        queue.enqueue_many({"kind": "k", "args": n} for n in range(5))
    databases = serve()
    assert begun.acquire(timeout=30)
    assert begun.acquire(timeout=30)
    databases.stop()
    go.set()
    eventually(lambda: all(database.worker is None for database in databases.databases))
    for found in (conn, other):
        assert one(found, "SELECT count(*) FROM pgq_waiting WHERE attempt = 0") == 4
        assert one(found, "SELECT count(*) FROM pgq_worker_session") == 0
    assert not databases.drained


def test_a_stop_ends_a_worker_that_waits_for_its_database(
    dsn: str, other_dsn: str, handlers: Handlers, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not wait for the end of a pause."""
    handlers.handler("k")(lambda job: None)
    proxy.refuse()
    dsns = {"one": proxy.lead(dsn), "two": other_dsn}
    long = Timing(first_pause=60, longest_pause=60)
    databases = Databases(list(dsns), lambda name: Worker(dsns[name], handlers), timing=long)
    thread = Thread(databases.run)
    eventually(lambda: "the database is not available" in caplog.text)
    databases.stop()
    thread.result(20)


def test_all_databases_share_the_number_of_jobs(
    conn: Connection, other: Connection, handlers: Handlers, serve: Serve
) -> None:
    ran: list[str | None] = []
    handlers.handler("k")(lambda job: ran.append(job.database))
    for queue in (Queue(conn), Queue(other)):
        queue.enqueue_many({"kind": "k", "args": n} for n in range(20))
    databases = serve(max_jobs=30)
    eventually(lambda: len(ran) == 30)
    eventually(lambda: all(database.worker is None for database in databases.databases))
    assert len(ran) == 30
    left = [one(found, "SELECT count(*) FROM pgq_waiting WHERE attempt = 0") for found in (conn, other)]
    assert sum(left) == 10


def test_a_drained_database_leaves_the_others_running(
    conn: Connection, other: Connection, handlers: Handlers, serve: Serve
) -> None:
    go = threading.Event()
    handlers.handler("k")(lambda job: go.wait(30))
    Queue(other).enqueue("k")
    databases = serve(drain=Drain(until_empty=True))
    first, second = databases.databases
    eventually(lambda: first.is_drained)
    assert second.worker is not None
    assert not databases.drained
    go.set()
    result(databases)


def test_a_suspect_runs_while_no_database_has_a_running_job(
    conn: Connection, other: Connection, handlers: Handlers, serve: Serve
) -> None:
    """If it ends the process, no job of another database is lost with it."""
    held: list[int] = []
    with psycopg.connect(other.info.dsn, autocommit=True) as look:

        @handlers.handler("s")
        def count(job: Job) -> None:
            held.append(one(look, "SELECT count(*) FROM _pgq_running"))

        handlers.handler("k")(lambda job: time.sleep(0.001))
        Queue(other).enqueue_many({"kind": "k", "args": n} for n in range(300))
        Queue(conn).enqueue_many({"kind": "s", "args": n} for n in range(10))
        conn.execute("UPDATE pgq_waiting SET losses = 1")
        result(serve(drain=Drain(until_empty=True)))
    assert held == [0] * 10


def test_each_worker_says_that_it_shares_its_process(
    conn: Connection, other: Connection, handlers: Handlers, serve: Serve, make_worker: Callable[..., Worker]
) -> None:
    """So a single job that is lost with it is a suspect: a job of another database may have ended the process."""
    handlers.handler("k")(lambda job: None)
    serve()
    for found in (conn, other):
        eventually(lambda found=found: found.execute("SELECT shares FROM pgq_worker_session").fetchall() == [(True,)])  # type: ignore[misc]
    alone = make_worker()
    alone.presence.start()
    assert one(conn, "SELECT count(*) FROM pgq_worker_session WHERE NOT shares") == 1


def test_the_gate_forgets_workers_that_have_ended(
    dsn: str, other_dsn: str, handlers: Handlers, serve: Serve, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    handlers.handler("k")(lambda job: None)
    proxy.refuse()
    databases = serve({"one": proxy.lead(dsn), "two": other_dsn})
    eventually(lambda: caplog.text.count("the database is not available") > 3)
    assert len(databases._gate.wakeups) <= 2


def test_a_handler_past_its_timeout_makes_the_process_unwell(
    conn: Connection, other: Connection, handlers: Handlers, serve: Serve
) -> None:
    """A database that is not available does not, or its outage would stop the others."""
    go = threading.Event()

    @handlers.handler("k", timeout=timedelta(seconds=0.05))
    def hang(job: Job) -> None:
        while not go.is_set():
            try:
                go.wait(30)
            except KeyboardInterrupt:
                continue

    databases = serve(timing=Timing(unwell_after=0.3))
    eventually(databases.is_well)
    Queue(other).enqueue("k")
    eventually(lambda: not databases.is_well())
    go.set()
    eventually(databases.is_well)
