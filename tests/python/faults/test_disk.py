"""A server that has no room left, or takes no writes."""

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

from pgq import Handlers, Queue, Worker

Open = Callable[[], Connection]


@pytest.fixture
def server(environment: None) -> Iterator[Server]:
    """A server of the test's own, with pgq."""
    with Server() as server:
        with psycopg.connect(host=server.host, user=server.user, autocommit=True) as conn:
            conn.execute((ROOT / "build/pgq.sql").read_bytes())
        yield server


@pytest.fixture
def open_(server: Server) -> Iterator[Open]:
    """Open connections to it, in autocommit mode; they are closed in the end."""
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
    """Whether it is the disk or a trigger that says so; as soon as there is room the job can be claimed."""
    if not mount:
        monkeypatch.setattr("os.geteuid", lambda: 1)
    conn, worker = open_(), Queue(open_())
    answer = worker.enqueue("k")
    with small_disk(server, conn, "pgq_running") as disk:
        if mount and not (Path(server.host) / "disk").is_mount():
            pytest.skip("to mount a disk takes root, and a permission that is lacking here")
        disk.fill()
        for _ in range(2):
            with pytest.raises(psycopg.errors.DiskFull, match="No space left"):
                worker.claim()
        disk.free()
        (job,) = worker.claim()
        assert (job.id, job.attempt) == (answer.id, 1)


def test_sessions_that_there_are_take_no_writes_while_the_server_is_read_only(open_: Open) -> None:
    """Nor do new ones; and both do again afterwards."""
    conn, old = open_(), Queue(open_())
    with read_only(conn):
        new = Queue(open_())
        for queue in (old, new):
            eventually(lambda queue=queue: one(queue.conn, "SHOW transaction_read_only") == "on")  # type: ignore[misc]
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                queue.enqueue("k")
    for queue in (old, new):
        eventually(lambda queue=queue: one(queue.conn, "SHOW transaction_read_only") == "off")  # type: ignore[misc]
        queue.enqueue("k")


@pytest.mark.happens("the database is full or read-only")
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_worker_waits_and_says_so(
    server: Server, open_: Open, handlers: Handlers, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    """It claims nothing and costs no attempt; when the trouble is over it goes on."""
    conn = open_()
    handlers.handler("k")(lambda job: None)
    worker = Worker(f"host={server.host} user={server.user}", handlers, poll=0.05)
    with caplog.at_level(logging.WARNING, "pgq"), small_disk(server, conn, "pgq_running") as disk:
        thread = Thread(worker.run)
        eventually(lambda: worker.loops[0].session.asleep)
        with ExitStack() as stack:
            if trouble == "full":
                disk.fill()
                stack.callback(disk.free)
                text = "No space left on device"
            else:
                stack.enter_context(read_only(conn))
                text = "read-only transaction"
                # Sessions learn of it in their own time.
                eventually(lambda: text in caplog.text)
            Queue(conn).enqueue("k")
            eventually(lambda: text in caplog.text)
            assert [(state, attempt) for _, state, attempt in jobs(conn)] == [("waiting", 0)]
        eventually(lambda: jobs(conn) == [])
        worker.stop()
        thread.result(15)
        server.stop("immediate")
