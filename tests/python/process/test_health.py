"""What operators see of a worker: its log, its health file, and messages to the service manager."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from pathlib import Path

import pytest
from support.database import Connection, one
from support.processes import Start
from support.threads import Thread, eventually

from pgq import Drain, Handlers, Job, Queue, Worker

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
    """A line about a job has its id, kind, queue and attempt, and how long it ran and waited."""
    (tmp_path / "tasks.py").write_text(TASKS)
    for kind in ("good", "bad", "inside"):
        queue.enqueue(kind, "s3cret", max_retries=0)
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
    for line in about.values():
        assert isinstance(line["job_id"], int)
        assert (line["queue"], line["attempt"], line["logger"]) == ("default", 1, "pgq")
        assert 0 <= line["duration"] < 10
        assert 3600 <= line["wait"] < 3700
    assert "s3cret" not in log


def test_the_health_file_is_touched_while_the_worker_is_well(
    queue: Queue, dsn: str, handlers: Handlers, tmp_path: Path
) -> None:
    """Each turn of the loop touches it; a handler that hangs keeps it from being touched."""
    path = tmp_path / "health"
    go = threading.Event()
    begun = threading.Event()

    @handlers.handler("k")
    def hang(job: Job) -> None:
        begun.set()
        go.wait(30)

    worker = Worker(dsn, handlers, poll=0.05, health_file=path)
    thread = Thread(worker.run)
    try:
        eventually(path.exists)
        os.utime(path, (0, 0))
        eventually(lambda: path.stat().st_mtime > 0)
        queue.enqueue("k")
        assert begun.wait(30)
        os.utime(path, (0, 0))
        # Longer than the half second by which a touch may be late.
        end = time.monotonic() + 0.8
        eventually(lambda: time.monotonic() > end)
        assert path.stat().st_mtime == 0
        go.set()
        eventually(lambda: path.stat().st_mtime > 0)
    finally:
        go.set()
        worker.stop()
        thread.result(30)


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
