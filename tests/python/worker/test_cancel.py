"""A running job that an operator cancels: its handler is interrupted, and the job ends as cancelled."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from support.database import Connect, Connection, jobs, one
from support.interrupted import LONG, compute, sleep, swallow, wait
from support.threads import Thread, eventually
from support.workers import MakeWorker

import pgq
from pgq import Drain, Handlers, Job, Queue, WorkerQueue
from pgq.views import Views
from pgq.worker import presence

# Longer than any test waits.


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker ask for cancels more often than once a second."""
    monkeypatch.setattr(presence, "LONGEST_TICK", 0.1)
    monkeypatch.setattr(presence, "HELD_FOR", 0.0)


@pytest.fixture
def operator(connect: Connect) -> Queue:
    """An operator, with a session of its own."""
    return Queue(connect())


class Begun:
    """The jobs whose handlers have begun."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def note(self, job: Job | list[Job]) -> None:
        """Note that the handler of a job, or of a list of jobs, has begun."""
        self.ids += [one.id for one in (job if isinstance(job, list) else [job])]


@pytest.fixture
def begun(handlers: Handlers) -> Begun:
    """The jobs whose handlers have begun."""
    begun = Begun()

    @handlers.around
    def note(job: Job | list[Job], proceed: Callable[[], Any]) -> Any:
        begun.note(job)
        return proceed()

    return begun


def fail_in_cleanup(job: Job, *conn: Connection) -> None:
    """Raise another exception while the interruption passes."""
    try:
        compute(job)
    finally:
        raise ValueError("cannot clean up")


def take_alarm(job: Job, *conn: Connection) -> None:
    """Take SIGALRM, as a library with timeouts of its own does, and compute."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    compute(job)


def query(job: Job, *conn: Connection) -> None:
    """Wait for the server."""
    for inside in conn:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
        # The server ends it after twenty seconds with another error.
        inside.execute("SELECT pg_sleep(60)")


def cancel_when_begun(operator: Queue, begun: Begun, ids: list[int]) -> Iterator[str]:
    """Cancel each job when its handler has begun, and yield the results of pgq_cancel."""
    for job_id in ids:
        eventually(lambda job_id=job_id: job_id in begun.ids, f"job {job_id} begins")  # type: ignore[misc]
        yield operator.cancel(job_id)


def cancelled(conn: Connection, job_id: int) -> tuple[str, int, str]:
    """Return the state, the attempt and the first line of the newest error of a job."""
    job = Views(conn).job(job_id)
    return job["state"], job["attempt"], job["errors"][0]["error"].splitlines()[0] if job["errors"] else ""


ASKED = ("cancelled", 1, "pgq.Cancelled: an operator has cancelled the job")


@pytest.mark.happens("is cancelled by an operator")
@pytest.mark.parametrize("pooler", [False, True])
def test_a_handler_is_interrupted_in_the_main_thread(
    queue: Queue, operator: Queue, make_worker: MakeWorker, handlers: Handlers, begun: Begun, pooler: bool
) -> None:
    """
    This holds whatever it runs, waits for or catches. Its writes are undone, its statement is cancelled in the server,
    and the worker goes on; retry_on and a timeout do not matter.
    """
    conn = queue.conn
    conn.execute("CREATE TABLE effect (job bigint)")
    ids = []
    for function in (sleep, wait, compute, swallow, take_alarm):
        timeout = LONG if function is compute else None
        handlers.handler(function.__name__, retry_on=OSError, timeout=timeout)(function)
        ids.append(queue.enqueue(function.__name__).id)
    handlers.handler("query", transaction=True)(query)
    handlers.handler("list", batch=2)(sleep)
    ids += [queue.enqueue("query").id, queue.enqueue("list", 1).id, queue.enqueue("list", 2).id]
    handlers.handler("cleanup")(fail_in_cleanup)
    ids.append(queue.enqueue("cleanup").id)
    done: list[Job] = []
    handlers.handler("next", transaction=True)(lambda job, conn: done.append(job))
    queue.enqueue("next")
    thread = Thread(lambda: list(cancel_when_begun(operator, begun, ids)))
    make_worker(drain=Drain(until_empty=False), transaction_pooler=pooler, poll=0.1).run()
    assert thread.result() == ["requested"] * len(ids)
    *interrupted, cleanup = ids
    assert [cancelled(conn, job_id) for job_id in interrupted] == [ASKED] * len(interrupted)
    assert cancelled(conn, cleanup) == ("cancelled", 1, "ValueError: cannot clean up")
    active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%%'"
    assert one(conn, active) == 0
    assert one(conn, "SELECT count(*) FROM effect") == 0
    assert len(done) == 1
    assert one(conn, "SELECT count(*) FROM pgq_cancel_request") == 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.happens("is cancelled by an operator")
def test_a_handler_in_another_thread_is_interrupted_when_python_runs(
    queue: Queue, operator: Queue, make_worker: MakeWorker, handlers: Handlers, begun: Begun
) -> None:
    """Python code is interrupted at once, a wait in C when it is over."""

    def sleep_for_a_second(job: Job, *inside: Connection) -> None:
        for session in inside:
            session.execute("SELECT pg_sleep(1)")
        if not inside:
            time.sleep(1)
        compute(job)

    for function in (compute, swallow):
        handlers.handler(function.__name__)(function)
    handlers.handler("sleep")(sleep_for_a_second)
    handlers.handler("query", transaction=True)(sleep_for_a_second)
    ids = [queue.enqueue(kind).id for kind in ("compute", "swallow", "sleep", "query")]
    worker = make_worker(concurrency=2, poll=0.1, batch=1)
    thread = Thread(worker.run)
    try:
        assert list(cancel_when_begun(operator, begun, ids)) == ["requested"] * len(ids)
        eventually(lambda: [state for _, state, _ in jobs(queue.conn)] == ["cancelled"] * len(ids), seconds=20)
    finally:
        worker.stop()
        thread.result(30)
    assert [cancelled(queue.conn, job_id) for job_id in ids] == [ASKED] * len(ids)


@pytest.mark.happens("is cancelled by an operator")
@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_a_handler_that_is_not_interrupted_can_ask(
    queue: Queue, operator: Queue, make_worker: MakeWorker, handlers: Handlers, begun: Begun, ending: str
) -> None:
    """A job is done if it returns, and cancelled if it raises; another one of its kind is left alone."""
    waited = threading.Event()

    @handlers.handler("k", interrupt_on_cancel=False)
    def look(job: Job) -> str:
        if job.args == "asked":
            eventually(lambda: job.cancelled, "the job is to be cancelled")
            # Longer than an interruption takes, if there were one.
            assert not waited.wait(0.3)
            waited.set()
            if ending == "raises":
                raise pgq.Snooze(delay=timedelta(hours=1))
        assert job.cancelled == (job.args == "asked")
        return "result"

    first, second = queue.enqueue("k", "asked"), queue.enqueue("k", "other")
    thread = Thread(lambda: list(cancel_when_begun(operator, begun, [first.id])))
    make_worker(drain=Drain(until_empty=False), poll=0.1).run()
    thread.result()
    assert waited.is_set()
    expected = "done" if ending == "returns" else "cancelled"
    assert [row[:2] for row in jobs(queue.conn)] == [(first.id, expected), (second.id, "done")]


def test_a_list_is_interrupted_when_all_of_it_is_cancelled(
    queue: Queue, operator: Queue, make_worker: MakeWorker, handlers: Handlers, begun: Begun
) -> None:
    """Before, the handler can ask for each job, and leave the cancelled ones out."""
    seen: list[list[bool]] = []

    @handlers.handler("k", batch=3)
    def work(jobs: list[Job]) -> dict[int, None]:
        eventually(lambda: jobs[0].cancelled, "the first job is to be cancelled")
        # Longer than an interruption takes, if there were one.
        threading.Event().wait(0.3)
        seen.append([job.cancelled for job in jobs])
        return {job.id: None for job in jobs if not job.cancelled}

    ids = [queue.enqueue("k", n).id for n in range(3)]
    thread = Thread(lambda: list(cancel_when_begun(operator, begun, ids[:1])))
    make_worker(drain=Drain(until_empty=False), poll=0.1).run()
    assert thread.result() == ["requested"]
    assert seen == [[True, False, False]]
    assert jobs(queue.conn) == [(ids[0], "cancelled", 1)]


def test_one_job_of_a_transactional_batch_is_interrupted(
    queue: Queue, operator: Queue, make_worker: MakeWorker, handlers: Handlers, begun: Begun
) -> None:
    """Its writes are undone; those of the others commit with them."""
    queue.conn.execute("CREATE TABLE effect (job bigint)")

    @handlers.handler("k", transaction=True, batch=3)
    def work(job: Job, conn: Connection) -> None:
        conn.execute("INSERT INTO effect VALUES (%s)", [job.id])
        if job.args == 1:
            conn.execute("SELECT pg_sleep(60)")

    ids = [queue.enqueue("k", n).id for n in range(3)]
    thread = Thread(lambda: list(cancel_when_begun(operator, begun, ids[1:2])))
    make_worker(drain=Drain(until_empty=False), poll=0.1).run()
    assert thread.result() == ["requested"]
    assert queue.conn.execute("SELECT job FROM effect ORDER BY job").fetchall() == [(ids[0],), (ids[2],)]
    assert cancelled(queue.conn, ids[1]) == ASKED


def test_jobs_that_have_not_begun_are_not_begun(
    queue: Queue, operator: Queue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """They are claimed with the one that runs, and end without an attempt."""
    ran: list[Any] = []

    @handlers.handler("k")
    def work(job: Job) -> None:
        ran.append(job.args)
        if job.args == 0:
            for job_id in ids[1:3]:
                assert operator.cancel(job_id) == "requested"
            (loop,) = worker.loops
            eventually(
                lambda: [job._cancelled for job in loop.claimed.unstarted] == [True, True, False], "both are marked"
            )

    ids = [queue.enqueue("k", n).id for n in range(4)]
    worker = make_worker(drain=Drain(until_empty=False), poll=0.1)
    worker.run()
    assert ran == [0, 3]
    assert jobs(queue.conn) == [(ids[1], "cancelled", 0), (ids[2], "cancelled", 0)]


def test_a_job_whose_handler_ignores_the_cancel_cannot_run_twice_at_once(
    queue: Queue, operator: Queue, make_worker: MakeWorker, handlers: Handlers, begun: Begun
) -> None:
    """A retry is refused until the handler has ended; then it runs again, after the old attempt."""
    events: list[str] = []

    @handlers.handler("k")
    def work(job: Job) -> None:
        events.append("begins")
        try:
            interruptions = 0
            while len(events) == 1 and interruptions < 2:
                try:
                    time.sleep(0.005)
                except pgq.Cancelled:
                    interruptions += 1
            if len(events) == 1:
                with pytest.raises(pgq.WrongState):
                    operator.retry(job.id)
                raise ValueError("at last")
        finally:
            events.append("ends")

    enqueued = queue.enqueue("k")
    worker = make_worker(poll=0.1, concurrency=2)
    thread = Thread(worker.run)
    try:
        list(cancel_when_begun(operator, begun, [enqueued.id]))
        eventually(lambda: [row[1] for row in jobs(queue.conn)] == ["cancelled"], "the job is cancelled")
        assert operator.retry(enqueued.id) == "retry"
        eventually(lambda: jobs(queue.conn) == [], "the retried job is done")
    finally:
        worker.stop()
        thread.result(30)
    assert events == ["begins", "ends"] * 2


def test_the_worker_asks_only_about_jobs_that_it_has_held_for_a_while(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short jobs cost no statement."""
    monkeypatch.setattr(presence, "HELD_FOR", LONG)
    asked: list[list[Job]] = []

    def cancel_requested(_: WorkerQueue, jobs: list[Job]) -> set[int]:
        asked.append(jobs)
        return set()

    monkeypatch.setattr(WorkerQueue, "cancel_requested", cancel_requested)
    handlers.handler("k")(lambda job: time.sleep(0.5))
    queue.enqueue("k")
    make_worker(drain=Drain(until_empty=False), poll=0.1).run()
    assert jobs(queue.conn) == []
    assert asked == []
    monkeypatch.setattr(presence, "HELD_FOR", 0.0)
    queue.enqueue("k")
    make_worker(drain=Drain(until_empty=False), poll=0.1).run()
    assert asked
