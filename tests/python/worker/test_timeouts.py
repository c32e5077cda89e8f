"""Timeouts: a slow handler is interrupted at once in the main thread, and as soon as possible in another one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from support.database import Connect, Connection, jobs, one
from support.interrupted import LONG, compute, sleep, swallow, wait
from support.threads import Thread, eventually
from support.workers import MakeWorker, drain

from pgq import Handlers, Job, Queue, TimedOut, Worker
from pgq.process.signals import StopSignals
from pgq.views import Views
from pgq.worker.loop import Loop
from pgq.worker.settle import Settler


# Longer than any test waits.
def ignore(job: Job, *conn: Connection) -> None:
    """Catch every Exception, again and again."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
            raise ValueError
        except Exception:
            continue


def query(job: Job, *conn: Connection) -> None:
    """Wait for the server."""
    for inside in conn:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
        inside.execute("SELECT pg_sleep(15)")


def timed_out(conn: Connection, job_id: int) -> bool:
    """Return whether the job has failed by its timeout."""
    job = Views(conn).job(job_id)
    return (job["state"], job["attempt"], job["errors"][0]["error"].splitlines()[0]) == (
        "waiting", 1, "pgq.TimedOut: the handler took longer than its timeout",
    )  # fmt: skip


@pytest.mark.happens("takes longer than its `timeout`")
def test_a_handler_is_interrupted_in_the_main_thread(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """
    This holds whatever it runs, waits for or catches. Its writes are undone, its statement is cancelled, and the worker
    goes on; retry_on does not matter.
    """
    conn = queue.conn
    conn.execute("CREATE TABLE effect (job bigint)")
    cases = [sleep, wait, compute, swallow, ignore]
    ids = []
    for function in cases:
        handlers.handler(function.__name__, timeout=0.2, retry_on=OSError)(function)
        ids.append(queue.enqueue(function.__name__).id)
    handlers.handler("query", timeout=timedelta(seconds=0.3), transaction=True)(query)
    handlers.handler("list", timeout=0.2, batch=2)(sleep)
    ids += [queue.enqueue("query").id, queue.enqueue("list", 1).id, queue.enqueue("list", 2).id]
    done: list[Job] = []
    handlers.handler("next", transaction=True)(lambda job, conn: done.append(job))
    queue.enqueue("next")
    begun = time.monotonic()
    drain(loop)
    # Two tenths of a second for each, a second more for the one that is interrupted twice; the rest is slack.
    assert time.monotonic() - begun < 15
    assert [timed_out(conn, job_id) for job_id in ids] == [True] * len(ids)
    assert (
        one(conn, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%%'")
        == 0
    )
    assert one(conn, "SELECT count(*) FROM effect") == 0
    assert len(done) == 1
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.SIGALRM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.happens("takes longer than its `timeout`")
def test_a_handler_in_another_thread_is_interrupted_when_python_runs(
    dsn: str, queue: Queue, handlers: Handlers
) -> None:
    """Python code is interrupted at once, a wait in C when it is over."""
    conn = queue.conn
    waited: dict[str, float] = {}

    def sleep_for_a_second(job: Job, *inside: Connection) -> None:
        begun = time.monotonic()
        try:
            for session in inside:
                session.execute("SELECT pg_sleep(1)")
            if not inside:
                time.sleep(1)
            compute(job)
        finally:
            waited[job.kind] = time.monotonic() - begun

    for function in (compute, swallow, ignore):
        handlers.handler(function.__name__, timeout=0.2)(function)
    handlers.handler("sleep", timeout=0.2)(sleep_for_a_second)
    handlers.handler("query", timeout=0.2, transaction=True)(sleep_for_a_second)
    ids = [queue.enqueue(kind).id for kind in ("compute", "swallow", "ignore", "sleep", "query")]
    main = threading.get_ident()
    threads: set[int] = set()
    handlers.handler("next")(lambda job: threads.add(threading.get_ident()))
    queue.enqueue_many({"kind": "next", "args": n, "priority": 9} for n in range(5))
    worker = Worker(dsn, handlers, concurrency=2, poll=0.1)
    thread = Thread(worker.run)
    try:
        eventually(lambda: [state for _, state, _ in jobs(conn)] == ["waiting"] * len(ids), seconds=20)
    finally:
        worker.stop()
        thread.result(30)
    assert [timed_out(conn, job_id) for job_id in ids] == [True] * len(ids)
    assert all(seconds > 0.9 for seconds in waited.values())
    assert threads
    assert main not in threads


def test_a_session_that_a_timeout_leaves_in_a_transaction_is_closed(
    queue: Queue, loop: Loop, handlers: Handlers, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler was about to complete its job. What the worker does in its session later is committed."""
    own, unpack = connect(), Settler.unpack

    def interrupted(settler: Settler, _: Sequence[Job]) -> None:
        monkeypatch.setattr(Settler, "unpack", unpack)
        settler.session.queue().conn.execute("BEGIN")
        raise TimedOut

    monkeypatch.setattr(Settler, "unpack", interrupted)
    handlers.handler("completes")(lambda job: job.complete(own))
    handlers.handler("next")(lambda job: None)
    late = queue.enqueue("completes").id
    loop.turn()
    queue.enqueue("next")
    drain(loop)
    assert jobs(queue.conn) == [(late, "waiting", 1)]


def test_a_handler_that_returns_in_time_is_not_interrupted(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """Neither is the worker, nor a later job without a timeout, when that time is over."""
    seen: list[str] = []

    @handlers.handler("quick", timeout=0.15)
    def quick(job: Job) -> None:
        seen.append("quick")

    @handlers.handler("slow")
    def slow(job: Job) -> None:
        time.sleep(0.3)
        seen.append("slow")

    queue.enqueue("quick")
    queue.enqueue("slow")
    drain(loop)
    assert seen == ["quick", "slow"]
    assert jobs(queue.conn) == []


def replace_handler(job: Job) -> None:
    """Take SIGALRM, as a library with timeouts of its own does, and compute."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    compute(job)


def stop_timer(job: Job) -> None:
    """Stop the timer, and wait in C."""
    signal.alarm(0)
    time.sleep(LONG)


def postpone_timer(job: Job) -> None:
    """Set the timer to a time that never comes, and wait in C."""
    signal.setitimer(signal.ITIMER_REAL, LONG)
    time.sleep(LONG)


def hasten_timer(job: Job) -> None:
    """Set the timer to an earlier time, and wait in C."""
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    time.sleep(LONG)


def block_signals(job: Job) -> None:
    """Block all signals in this thread, as a caller of a C library does, and compute."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    compute(job)


@pytest.mark.happens("takes longer than its `timeout`")
@pytest.mark.parametrize("function", [replace_handler, stop_timer, postpone_timer, hasten_timer, block_signals])
def test_a_handler_that_takes_the_alarm_keeps_its_timeout(
    queue: Queue, loop: Loop, handlers: Handlers, function: Callable[[Job], None]
) -> None:
    """It is interrupted in time, not before; so is the next one, which leaves the alarm alone."""
    seconds: dict[str, float] = {}

    def timed(job: Job) -> None:
        begun = time.monotonic()
        try:
            (function if job.kind == "taker" else sleep)(job)
        finally:
            seconds[job.kind] = time.monotonic() - begun

    handlers.handler("taker", timeout=0.4)(timed)
    handlers.handler("next", timeout=0.4)(timed)
    ids = [queue.enqueue(kind).id for kind in ("taker", "next")]
    with StopSignals(loop.state.stop, lambda _: None, 1.0):
        drain(loop)
    assert [timed_out(queue.conn, job_id) for job_id in ids] == [True, True]
    # The time counts from just before the call. Where the timer does not help, the interruption comes two tenths of a
    # second later than due; the rest is slack.
    assert all(0.39 <= value < 8 for value in seconds.values()), seconds
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.SIGALRM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("transaction_pooler", [False, True])
@pytest.mark.parametrize(
    ("of_database", "timeout", "limit"),
    [("0", 20, "25s"), ("10s", 20, "10s"), ("10min", 20.5, "25500ms"), ("10min", None, "10min"), ("0", 1e9, "0")],
)
def test_the_server_ends_a_session_that_is_idle_for_longer_than_the_timeout(
    conn: Connection,
    queue: Queue,
    handlers: Handlers,
    make_worker: MakeWorker,
    transaction_pooler: bool,
    of_database: str,
    timeout: float | None,
    limit: str,
) -> None:
    """It does so five seconds later, or after its own limit if that is shorter, and only in this transaction."""
    setting = "idle_in_transaction_session_timeout"
    conn.execute(f"ALTER DATABASE {conn.info.dbname} SET {setting} = '{of_database}'".encode())
    found: list[str] = []

    def note(job: Job, conn: Connection) -> None:
        found.append(one(conn, f"SHOW {setting}"))

    handlers.handler("bounded", transaction=True, timeout=timeout)(note)
    handlers.handler("not bounded", transaction=True)(note)
    for n, kind in enumerate(["bounded", "not bounded", "bounded"]):
        queue.enqueue(kind, n)
    drain(make_worker(transaction_pooler=transaction_pooler).loops[0])
    assert jobs(conn) == []
    assert found == [limit, of_database, limit]
