"""A server whose disk is full, or that is read-only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from postgres.server import Server
from support.database import Connection, jobs, one
from support.disk import read_only, small_disk
from support.paths import ROOT
from support.threads import Thread, eventually

from pgq import Handlers, Queue, Worker, WorkerQueue

Open = Callable[[], Connection]


@pytest.fixture
def server(environment: None) -> Iterator[Server]:
    """A server for this test alone, with pgq."""
    with Server() as server:
        with psycopg.connect(host=server.host, user=server.user, autocommit=True) as conn:
            conn.execute((ROOT / "build/pgq.sql").read_bytes())
        yield server


@pytest.fixture
def open_(server: Server) -> Iterator[Open]:
    """Open connections to that server, in autocommit mode; they are closed at the end."""
    opened: list[Connection] = []

    def open_() -> Connection:
        opened.append(psycopg.connect(host=server.host, user=server.user, autocommit=True))
        return opened[-1]

    yield open_
    for conn in opened:
        conn.close()


@pytest.mark.parametrize("mount", [True, False])
def test_a_claim_fails_while_the_disk_is_full(
    server: Server, open_: Open, monkeypatch: pytest.MonkeyPatch, mount: bool
) -> None:
    """The disk is a small mount or simulated by a trigger; with free space the claim succeeds."""
    if not mount:
        monkeypatch.setattr("os.geteuid", lambda: 1)
    conn, worker = open_(), WorkerQueue(open_())
    enqueued = worker.enqueue("k")
    with small_disk(server, conn, "pgq_running") as disk:
        if mount and not (Path(server.host) / "disk").is_mount():
            pytest.skip("mounting a disk takes root and a permission that is missing here")
        disk.fill()
        for _ in range(2):
            with pytest.raises(psycopg.errors.DiskFull, match="No space left"):
                worker.claim()
        disk.free()
        (job,) = worker.claim()
        assert (job.id, job.attempt) == (enqueued.id, 1)


def test_no_session_can_write_while_the_server_is_read_only(open_: Open) -> None:
    """Neither older sessions nor new ones can; both can afterwards."""
    conn, old = open_(), WorkerQueue(open_())
    with read_only(conn):
        new = WorkerQueue(open_())
        for queue in (old, new):
            eventually(lambda queue=queue: one(queue.conn, "SHOW transaction_read_only") == "on")  # type: ignore[misc]
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                queue.enqueue("k")
    for queue in (old, new):
        eventually(lambda queue=queue: one(queue.conn, "SHOW transaction_read_only") == "off")  # type: ignore[misc]
        queue.enqueue("k")


@pytest.mark.happens("the database is full or read-only")
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_worker_waits_for_a_full_or_read_only_database(
    server: Server, open_: Open, handlers: Handlers, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """It logs a warning, claims nothing and loses no attempt, and goes on when the database takes writes again."""
    conn = open_()
    handlers.handler("k")(lambda job: None)
    worker = Worker(f"host={server.host} user={server.user}", handlers, poll=0.05)
    with caplog.at_level(logging.WARNING, "pgq"), small_disk(server, conn, "pgq_running") as disk:
        thread = Thread(worker.run)
        eventually(lambda: worker.presence.session.idle)
        with ExitStack() as stack:
            if trouble == "full":
                disk.fill()
                stack.callback(disk.free)
                text = "No space left on device"
            else:
                stack.enter_context(read_only(conn))
                text = "read-only transaction"
                # Sessions notice the change with a delay.
                eventually(lambda: text in caplog.text)
            Queue(conn).enqueue("k")
            eventually(lambda: text in caplog.text)
            assert [(state, attempt) for _, state, attempt in jobs(conn)] == [("waiting", 0)]
        eventually(lambda: jobs(conn) == [])
        worker.stop()
        thread.result(30)
        server.stop("immediate")
