"""What operators see of a worker: its log, its health file, and messages to the service manager."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import Connect, Connection, one
from support.processes import Start
from support.threads import Thread, eventually

from pgq import Drain, Handlers, Job, Queue, Worker
from pgq.cli.errors import ConnectionFailed, command_errors
from pgq.process.health import READY, UNWELL, WELL, Health
from pgq.process.supervisor import Supervisor
from pgq.worker.settings import Timing

TASKS = """
import pgq

@pgq.handler("good", timeout=5)
def good(job):
    pass

@pgq.handler("bad")
def bad(job):
    raise ValueError(job.args)

@pgq.handler("inside", transaction=True)
def inside(job, conn):
    pass
"""


def test_the_json_log_has_one_object_per_line(conn: Connection, queue: Queue, start: Start, tmp_path: Path) -> None:
    """A line about a job, or about the jobs of a kind that are done, has all that the text says as members."""
    (tmp_path / "tasks.py").write_text(TASKS)
    enqueued = {kind: queue.enqueue(kind, "s3cret", max_retries=0).id for kind in ("good", "bad", "inside")}
    conn.execute("UPDATE pgq_waiting SET ripe_at = ripe_at - interval '1 hour'")
    process = start("--drain", "--log-format", "json")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    about = {line["kind"]: line for line in lines if "kind" in line}
    assert {kind: (line["action"], line["level"]) for kind, line in about.items()} == {
        "good": ("done", "info"),
        "bad": ("dead", "error"),
        "inside": ("done", "info"),
    }
    bad = about["bad"]
    assert (bad["job_id"], bad["queue"], bad["attempt"]) == (enqueued["bad"], "default", 1)
    for kind in ("good", "inside"):
        assert (about[kind]["count"], about[kind]["job_ids"]) == (1, [enqueued[kind]])
        assert about[kind]["longest"] == about[kind]["duration"] <= about[kind]["seconds"]
    for line in about.values():
        assert line["logger"] == "pgq"
        assert 0 <= line["duration"] < 10
        assert 3600 <= line["wait"] < 3700
    assert "s3cret" not in log


def test_the_health_file_is_touched_while_the_worker_is_well(
    queue: Queue, dsn: str, handlers: Handlers, tmp_path: Path
) -> None:
    """Each half second, also while a handler without a timeout runs, and not once its loop does not get on."""
    path = tmp_path / "health"
    go = threading.Event()
    begun = threading.Event()

    @handlers.handler("k")
    def hang(job: Job) -> None:
        begun.set()
        go.wait(30)

    @handlers.handler("stuck", timeout=0.2)
    def stuck(job: Job) -> None:
        # In a thread, only Python code is interrupted.
        begun.set()
        go.wait(30)

    worker = Worker(dsn, handlers, poll=0.05, health_file=path, concurrency=2, timing=Timing(unwell_after=0.5))
    thread = Thread(worker.run)
    try:
        eventually(path.exists)
        os.utime(path, (0, 0))
        eventually(lambda: path.stat().st_mtime > 0)
        queue.enqueue("k")
        assert begun.wait(30)
        for _ in range(3):
            os.utime(path, (0, 0))
            eventually(lambda: path.stat().st_mtime > 0)
        begun.clear()
        queue.enqueue("stuck")
        assert begun.wait(30)
        assert is_stale(path)
        go.set()
        eventually(lambda: path.stat().st_mtime > 0)
    finally:
        go.set()
        worker.stop()
        thread.result(30)


def is_stale(path: Path) -> bool:
    """Return whether the file is not touched any longer, from some time within the next ten seconds on."""
    for _ in range(10):
        os.utime(path, (0, 0))
        # Longer than the half second by which a touch may be late.
        time.sleep(1)
        if path.stat().st_mtime == 0:
            return True
    return False


def test_the_health_file_is_stale_when_the_worker_cannot_claim(
    connect: Connect, dsn: str, handlers: Handlers, tmp_path: Path
) -> None:
    """It is fresh again as soon as it can."""
    path = tmp_path / "health"
    worker = Worker(dsn, handlers, poll=0.05, health_file=path, timing=Timing(unwell_after=0.5))
    thread = Thread(worker.run)
    try:
        eventually(path.exists)
        other = connect()
        other.execute("BEGIN; LOCK TABLE pgq_waiting IN ACCESS EXCLUSIVE MODE")
        assert is_stale(path)
        other.execute("ROLLBACK")
        eventually(lambda: path.stat().st_mtime > 0)
    finally:
        worker.stop()
        thread.result(30)


def test_a_health_file_that_cannot_be_written_does_not_end_the_worker(
    dsn: str, handlers: Handlers, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so, once."""
    worker = Worker(dsn, handlers, poll=0.05, health_file=tmp_path / "nothing" / "health")
    thread = Thread(worker.run)
    eventually(lambda: "cannot update the health file" in caplog.text)
    time.sleep(1)
    worker.stop()
    thread.result(30)
    assert caplog.text.count("cannot update the health file") == 1


@pytest.mark.parametrize("processes", [1, 2])
def test_the_health_of_all_processes_is_in_the_file_and_told_to_the_watchdog(
    conn: Connection, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    """WATCHDOG=1 comes more often than asked for; the file is where it was at the start of the command."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(15)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "tasks.py").write_text(f"{TASKS}\nimport os\nos.chdir('elsewhere')\n")
        start("--processes", str(processes), "--health-file", "health")
        states = [manager.recv(100) for _ in range(8)]
        assert set(states) <= {b"READY=1", b"WATCHDOG=1"}
        assert states.count(b"WATCHDOG=1") >= 7
        begun = time.monotonic()
        for _ in range(4):
            assert manager.recv(100) in {b"READY=1", b"WATCHDOG=1"}
        # Four times half of the time that was asked for.
        assert 0.5 < time.monotonic() - begun < 5
    eventually((tmp_path / "health").exists)


def test_a_supervisor_is_as_well_as_the_least_of_its_children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A child that says that it is unwell counts at once, one that says nothing after a minute."""
    now = [1000.0]
    monkeypatch.setattr("pgq.process.supervisor.monotonic", lambda: now[0])
    path = tmp_path / "health"
    supervisor = Supervisor(["sleep", "60"], 2, grace=1, health=Health(path))
    lifelines = []
    for child in supervisor.children:
        child.lifeline, other = socket.socketpair()
        child.lifeline.setblocking(False)
        child.start_at = float("inf")
        lifelines.append(other)

    def is_fresh() -> bool:
        path.unlink(missing_ok=True)
        now[0] += 1
        supervisor.turn()
        return path.exists()

    assert not is_fresh()
    for lifeline in lifelines:
        lifeline.send(READY)
    assert is_fresh()
    lifelines[0].send(WELL + UNWELL)
    assert not is_fresh()
    lifelines[0].send(UNWELL + WELL)
    assert is_fresh()
    now[0] += 50
    lifelines[1].send(WELL)
    assert is_fresh()
    now[0] += 15
    assert not is_fresh()
    for line in (*lifelines, *(child.lifeline for child in supervisor.children)):
        assert line is not None
        line.close()


@pytest.mark.happens("the server refuses its role, its password or its database")
@pytest.mark.parametrize(
    ("refuse", "allow"),
    [
        (["ALTER ROLE refused NOLOGIN"], ["ALTER ROLE refused LOGIN"]),
        # Only a database without sessions can be renamed, so it lets none in before.
        (
            ["ALTER DATABASE {} ALLOW_CONNECTIONS false", "ALTER DATABASE {} RENAME TO refused"],
            ["ALTER DATABASE refused RENAME TO {}", "ALTER DATABASE {} ALLOW_CONNECTIONS true"],
        ),
    ],
    ids=["28000", "3D000"],
)
def test_a_refusal_that_lasts_ends_the_worker(
    conn: Connection,
    dsn: str,
    handlers: Handlers,
    caplog: pytest.LogCaptureFixture,
    refuse: list[str],
    allow: list[str],
) -> None:
    """One that does not last is waited for; the exit code of the command is 3."""
    caplog.set_level("INFO")
    name = conn.info.dbname
    conn.execute("DROP ROLE IF EXISTS refused")
    conn.execute("CREATE ROLE refused LOGIN SUPERUSER")
    conn.close()
    timing = Timing(refused_for=4, first_pause=0.1, longest_pause=0.1)
    worker = Worker(make_conninfo(dsn, user="refused"), handlers, poll=0.05, timing=timing)
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as admin:
        thread = Thread(worker.run)
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'refused'"
        present = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'refused'"
        try:
            # Not earlier: an error of the first connections ends a worker at once.
            eventually(lambda: "serves" in caplog.text)
            for seconds in (0.5, 0):
                for statement in refuse:
                    eventually(partial(_try, admin, statement.format(name)))
                    admin.execute(terminate.encode())
                if seconds:
                    time.sleep(seconds)
                    for statement in allow:
                        admin.execute(statement.format(name).encode())
                    eventually(lambda: one(admin, present))
            with pytest.raises(ConnectionFailed, match="cannot reach the database") as raised, command_errors():
                thread.result(30)
            assert raised.value.exit_code == 3
        finally:
            worker.stop()
            for statement in allow:
                with contextlib.suppress(psycopg.Error):
                    admin.execute(statement.format(name).encode())


def _try(admin: Connection, statement: str) -> bool:
    """Return whether a statement succeeds that needs a database without sessions."""
    try:
        admin.execute(statement.encode())
    except psycopg.errors.ObjectInUse:
        return False
    return True


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_notified(
    conn: Connection, dsn: str, handlers: Handlers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    """READY=1 is sent when the worker is registered, STOPPING=1 when it stops; the address may be abstract."""
    path = f"@pgq-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path.replace("@", "\0"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        worker = Worker(dsn, handlers, poll=0.05)
        thread = Thread(worker.run)
        assert manager.recv(100) == b"READY=1"
        assert one(conn, "SELECT count(*) FROM pgq_workers WHERE present") == 1
        worker.stop()
        assert manager.recv(100) == b"STOPPING=1"
        thread.result(30)


def test_a_missing_notify_socket_does_not_stop_the_worker(
    dsn: str, handlers: Handlers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nothing"))
    Thread(Worker(dsn, handlers, drain=Drain(until_empty=False)).run).result(30)


def test_the_text_log_says_what_happened_to_a_job(queue: Queue, start: Start, tmp_path: Path) -> None:
    """The line names the exception's class and the time of the next attempt."""
    (tmp_path / "tasks.py").write_text(TASKS)
    queue.enqueue("bad", "s3cret", backoff="1 hour")
    _, log = start("--drain").communicate(timeout=30)
    line = r"WARNING job \d+ bad attempt 1: retry at [-\d]+ [:\d]+\+0000 after ValueError in 0\.\d{3} s"
    assert len(re.findall(line, log)) == 1
    assert "s3cret" not in log
