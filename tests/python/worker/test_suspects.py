"""Suspects, which are jobs that were lost together with others: a worker runs each while it holds no other job."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from support.database import Connect, Connection, jobs, one
from support.threads import Thread, eventually
from support.workers import MakeWorker, drain

from pgq import Drain, Handlers, Job, Queue, WorkerQueue
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing


def suspect(conn: Connection, *kinds: str) -> None:
    """Make suspects of the waiting jobs of these kinds."""
    conn.execute("UPDATE pgq_waiting SET losses = 1 WHERE kind = ANY (%s)", [list(kinds)])


def test_a_suspect_runs_while_its_process_holds_no_other_job(
    conn: Connection, connect: Connect, queue: Queue, handlers: Handlers, make_worker: MakeWorker
) -> None:
    """Four loops meet twenty suspects among two hundred jobs, and a crash would name one job each time."""
    queue.enqueue_many({"kind": "s" if n % 10 == 0 else "k", "args": n} for n in range(200))
    suspect(conn, "s")
    looks = [connect() for _ in range(4)]
    held: list[tuple[int, bool]] = []

    @handlers.handler("s")
    def look(job: Job) -> None:
        held.append((one(looks.pop(), "SELECT count(*) FROM pgq_running"), job.suspect))
        looks.append(connect())

    handlers.handler("k")(lambda job: time.sleep(0.001))
    worker = make_worker(concurrency=4, drain=Drain(until_empty=True), poll=0.05)
    Thread(worker.run).result()
    assert held == [(1, True)] * 20
    assert jobs(conn) == []


@pytest.mark.parametrize("transaction", [False, True])
def test_a_batch_handler_gets_a_suspect_alone(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers, transaction: bool
) -> None:
    """Also one that could take the whole batch, and the others follow in theirs."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(10))
    conn.execute("UPDATE pgq_waiting SET losses = 1 WHERE args <= '1'")
    held: list[int] = []

    def look(*_: Any) -> None:
        held.append(one(conn, "SELECT count(*) FROM pgq_running"))

    handlers.handler("k", batch=100, transaction=transaction)(look)
    drain(loop)
    assert held == ([1, 1] + [8] * 8 if transaction else [1, 1, 8])
    assert jobs(conn) == []


def test_a_suspect_does_not_wait_for_ever_for_the_other_loops(
    conn: Connection, queue: Queue, handlers: Handlers, make_worker: MakeWorker
) -> None:
    """When another handler takes long, the suspect runs beside it in the end."""
    begun, done = threading.Event(), threading.Event()

    @handlers.handler("long")
    def long(job: Job) -> None:
        begun.set()
        assert done.wait(30)

    handlers.handler("s")(lambda job: done.set())
    worker = make_worker(concurrency=2, max_jobs=2, poll=0.05, timing=Timing(alone_within=0.2))
    thread = Thread(worker.run)
    queue.enqueue("long")
    assert begun.wait(30)
    with conn.transaction():
        queue.enqueue("s")
        suspect(conn, "s")
    thread.result()
    assert jobs(conn) == []


def test_the_other_loops_do_not_wait_for_ever_for_a_suspect(
    conn: Connection, queue: Queue, handlers: Handlers, make_worker: MakeWorker
) -> None:
    """When a suspect takes long, they claim beside it in the end."""
    begun, done = threading.Event(), threading.Event()

    @handlers.handler("s")
    def long(job: Job) -> None:
        begun.set()
        assert done.wait(30)

    handlers.handler("k")(lambda job: done.set())
    queue.enqueue("s")
    suspect(conn, "s")
    worker = make_worker(concurrency=2, max_jobs=2, poll=0.05, timing=Timing(alone_for=0.2))
    thread = Thread(worker.run)
    assert begun.wait(30)
    queue.enqueue("k")
    thread.result()
    assert jobs(conn) == []


def test_the_other_loops_wait_while_a_suspect_runs(
    conn: Connection, queue: Queue, handlers: Handlers, make_worker: MakeWorker
) -> None:
    """A job that is ripe meanwhile begins at once when the suspect has ended."""
    begun, done = threading.Event(), threading.Event()
    order: list[str] = []

    @handlers.handler("s")
    def first(job: Job) -> None:
        begun.set()
        assert done.wait(30)
        order.append("s")

    handlers.handler("k")(lambda job: order.append("k"))
    queue.enqueue("s")
    suspect(conn, "s")
    worker = make_worker(concurrency=3, max_jobs=2)
    thread = Thread(worker.run)
    assert begun.wait(30)
    queue.enqueue("k")
    gate, loops = worker.state.gate, worker.loops
    eventually(lambda: sum(gate.is_alone(loop.wakeup) for loop in loops) == 1)
    done.set()
    thread.result()
    assert order == ["s", "k"]


def test_a_stop_releases_a_suspect_that_has_not_begun(
    conn: Connection, queue: Queue, handlers: Handlers, make_worker: MakeWorker
) -> None:
    """Its loop still waits for another one; the attempt does not count, and it stays a suspect."""
    begun, done = threading.Event(), threading.Event()

    @handlers.handler("long")
    def long(job: Job) -> None:
        begun.set()
        assert done.wait(30)

    ran: list[Any] = []
    handlers.handler("s")(ran.append)
    worker = make_worker(concurrency=2, poll=0.05)
    thread = Thread(worker.run)
    queue.enqueue("long")
    assert begun.wait(30)
    with conn.transaction():
        queue.enqueue("s")
        suspect(conn, "s")
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_running") == 2)
    worker.stop()
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_running") == 1)
    assert conn.execute("SELECT attempt, losses FROM pgq_waiting").fetchall() == [(0, 1)]
    done.set()
    thread.result()
    assert ran == []


def test_a_suspect_is_settled_before_the_other_loops_go_on(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers
) -> None:
    """A job that they claim then, and that ends the process, is lost alone."""
    queue.enqueue("s")
    suspect(conn, "s")
    handlers.handler("s")(lambda job: None)
    assert loop.turn() == 1
    assert jobs(conn) == []


def test_a_loop_that_fails_opens_the_gate(conn: Connection, queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """The error of a loop with a suspect does not keep the others from claiming."""
    queue.enqueue("s")
    suspect(conn, "s")
    handlers.handler("s")(lambda job: None)
    loop.run_batch = lambda: 1 / 0  # type: ignore[method-assign,assignment]
    with pytest.raises(ZeroDivisionError):
        loop.turn()
    loop.close()
    other = object()
    assert loop.state.gate.enter(other, 0)
    assert loop.state.gate.is_alone(other)


def test_jobs_that_a_live_transaction_holds_are_lost_together_with_the_others(
    conn: Connection, connect: Connect, queue: WorkerQueue, grown_up: None
) -> None:
    """A worker is killed, and the server notices the end of one of its sessions later than that of the others."""
    queue.enqueue_many({"kind": "k", "args": n, "max_retries": 0} for n in range(3))
    gone, inside = connect(), connect(autocommit=False)
    WorkerQueue(gone).register("gone")
    first, *_ = queue.claim(max_jobs=3, worker="gone")
    WorkerQueue(inside).hold(first)
    gone.close()
    eventually(lambda: one(conn, "SELECT count(*) FROM _pgq_presence") == 0)

    def waiting() -> int:
        queue.claim(["elsewhere"])
        return int(one(conn, "SELECT count(*) FROM pgq_waiting WHERE attempt = 0"))

    eventually(lambda: waiting() == 2, "the others are rescued")
    inside.close()
    eventually(lambda: waiting() == 3, "the job is rescued when its session has ended")
    assert one(conn, "SELECT array_agg(losses) FROM pgq_jobs") == [1, 1, 1]
