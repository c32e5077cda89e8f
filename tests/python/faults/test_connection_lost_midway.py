"""A connection that is lost before a statement arrives at the server, or before its result arrives at the client."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from support.database import Connection, jobs
from support.proxy import Proxy
from support.threads import Thread, eventually

from pgq import Handlers, Job, Queue, Worker
from pgq.worker.settings import Timing


@pytest.fixture
def worker(dsn: str, proxy: Proxy, handlers: Handlers) -> Iterator[Worker]:
    """A worker that connects through the proxy, with long leases."""
    worker = Worker(proxy.lead(dsn), handlers, poll=0.05, lease=timedelta(minutes=5), timing=Timing(first_pause=0.02))
    yield worker
    worker.stop()


@pytest.mark.happens("the reply to a `COMMIT` is lost")
@pytest.mark.parametrize(
    ("pattern", "delivered", "attempts"),
    [
        ("pgq_claim", False, 1),
        ("pgq_claim", True, 1),
        ("pgq_hold", False, 1),
        ("pgq_hold", True, 1),
        ("INSERT INTO effect", False, 2),
        ("INSERT INTO effect", True, 2),
        # One message, which completes, commits and resets the session.
        ("pgq_complete", False, 2),
        ("pgq_complete", True, 1),
    ],
)
def test_a_transactional_job_has_its_effect_once(
    conn: Connection,
    queue: Queue,
    proxy: Proxy,
    handlers: Handlers,
    worker: Worker,
    pattern: str,
    delivered: bool,
    attempts: int,
) -> None:
    """
    Its connection is lost at each message, before it arrives or after it is done. The job does not wait for its lease,
    and an attempt counts only if the handler has started.
    """
    conn.execute("CREATE TABLE effect (attempt integer)")

    @handlers.handler("k", transaction=True)
    def k(job: Job, inside: Connection) -> None:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.attempt])

    thread = Thread(worker.run)
    eventually(lambda: worker.presence.session.idle)
    sprung = (proxy.cut_after if delivered else proxy.cut_before)(pattern.encode())
    queue.enqueue("k", backoff="0")
    assert sprung.wait(30)
    eventually(lambda: jobs(conn) == [])
    worker.stop()
    thread.result(30)
    assert conn.execute("SELECT attempt FROM effect").fetchall() == [(attempts,)]


@pytest.mark.happens("the reply to a `COMMIT` is lost")
@pytest.mark.parametrize("delivered", [False, True])
def test_a_settlement_without_a_result_is_repeated_without_effect(
    conn: Connection, queue: Queue, proxy: Proxy, handlers: Handlers, worker: Worker, delivered: bool
) -> None:
    """The handler does not run again for a job that is done."""
    ran: list[int] = []
    begun, go = threading.Event(), threading.Event()

    @handlers.handler("k")
    def k(job: Job) -> None:
        ran.append(job.attempt)
        begun.set()
        assert go.wait(30)

    queue.enqueue("k")
    thread = Thread(worker.run)
    assert begun.wait(30)
    # The name is among the values of the statement, which settles and claims. Its text was sent beforehand.
    sprung = (proxy.cut_after if delivered else proxy.cut_before)(worker.settings.name.encode())
    go.set()
    assert sprung.wait(30)
    eventually(lambda: jobs(conn) == [])
    worker.stop()
    thread.result(30)
    assert ran == [1]


def test_a_worker_waits_for_a_server_that_refuses_connections(
    conn: Connection, queue: Queue, proxy: Proxy, handlers: Handlers, worker: Worker
) -> None:
    """Then it reconnects and registers again."""
    done: list[int] = []
    handlers.handler("k")(lambda job: done.append(job.args))
    thread = Thread(worker.run)
    eventually(lambda: worker.presence.session.idle)
    proxy.refuse()
    proxy.cut()
    queue.enqueue("k", 1)
    eventually(lambda: conn.execute("SELECT FROM pgq_workers WHERE present").fetchall() == [])
    assert done == []
    proxy.accept()
    eventually(lambda: done == [1])
    eventually(lambda: len(conn.execute("SELECT FROM pgq_workers WHERE present").fetchall()) == 1)
    worker.stop()
    thread.result(30)
