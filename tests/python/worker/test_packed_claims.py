"""Handlers that take a job of a packed claim through a connection of their own, in a transaction that stays open."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support.database import Connection, one
from support.threads import Thread, eventually
from support.workers import MakeWorker

from pgq import Handlers, Job, Queue
from pgq.worker.settings import Timing

# As many as a first claim takes. The handler of one of them is slow; so many are done before it.
JOBS = 10
DONE = 4
SHORT = Timing(keep_unstarted=0.05, settle_again=0.05, lock_timeout="50ms")
Slow = Callable[[Job, psycopg.Connection[Any]], Any]
Start = Callable[..., Thread]


@pytest.fixture
def ran() -> list[int]:
    """The arguments of the jobs that have begun."""
    return []


@pytest.fixture
def start(queue: Queue, make_worker: MakeWorker, handlers: Handlers, dsn: str, ran: list[int]) -> Start:
    """
    Run a worker one of whose jobs calls two functions with a connection, in a transaction; then stop it.

    The worker settles nothing before the first of them has returned.
    """

    def start(take: Slow, slow: Slow, done: int = DONE) -> Thread:
        worker = make_worker(timing=SHORT)
        lock = worker.loops[0].session.lock

        @handlers.handler("k", interrupt_on_cancel=False)
        def work(job: Job) -> None:
            ran.append(job.args)
            if job.args == 0:
                lock.acquire()
            if job.args != done:
                return
            with psycopg.connect(dsn) as own:
                try:
                    assert one(queue.conn, "SELECT count(*) FROM _pgq_packed") == JOBS
                    take(job, own)
                finally:
                    lock.release()
                try:
                    slow(job, own)
                finally:
                    # While the transaction is open.
                    worker.stop()

        queue.enqueue_many({"kind": "k", "args": n} for n in range(JOBS))
        return Thread(worker.run)

    return start


def hold(job: Job, own: psycopg.Connection[Any]) -> None:
    """Lock the batch of the job."""
    own.execute("SELECT pgq_hold(%s, %s)", [job.id, job.token])


def states(conn: Connection) -> dict[int, list[Any]]:
    """Return the state and the attempt of each job, by its arguments."""
    return {int(args): found for args, *found in conn.execute("SELECT args, state, attempt FROM pgq_jobs ORDER BY id")}


def others_back(conn: Connection) -> bool:
    """Return whether the jobs before the slow one have ended, and those after it gone back."""
    found = states(conn)
    found.pop(DONE, None)
    return found == {n: ["waiting", 0] for n in range(DONE + 1, JOBS)}


def test_a_job_that_is_completed_through_a_connection_locks_no_other(
    conn: Connection, start: Start, ran: list[int]
) -> None:
    """While the transaction is open, the jobs before it are settled, and those after it go back."""

    def slow(job: Job, own: psycopg.Connection[Any]) -> None:
        eventually(lambda: others_back(conn), "the other jobs leave the batch")
        assert states(conn)[DONE] == ["running", 1]

    start(lambda job, own: job.complete(own), slow).result()
    assert others_back(conn)
    assert DONE not in states(conn)
    assert ran == list(range(DONE + 1))


@pytest.mark.parametrize(
    ("call", "left"),
    [
        ("SELECT pgq_hold(%s, %s)", None),
        ("SELECT pgq_complete(%s, %s)", None),
        ("SELECT pgq_complete(%s, %s, '1')", ["done", 1]),
        ("SELECT pgq_fail(%s, %s, 'e', retry => false)", ["dead", 1]),
    ],
)
def test_a_job_that_is_taken_by_sql_delays_the_others_of_its_batch(
    queue: Queue,
    conn: Connection,
    start: Start,
    ran: list[int],
    caplog: pytest.LogCaptureFixture,
    call: str,
    left: list[Any] | None,
) -> None:
    """The worker tries to settle them again and again, and meanwhile extends, cancels and stops."""

    def slow(job: Job, own: psycopg.Connection[Any]) -> None:
        eventually(lambda: caplog.text.count("cannot settle while a handler runs") > 1, "the worker tries twice")
        job.extend(timedelta(hours=1))
        last = one(conn, "SELECT max(id) FROM pgq_jobs")
        assert [queue.cancel(job.id), queue.cancel(last)] == ["requested", "requested"]
        eventually(lambda: job.cancelled, "the worker learns of the request")
        assert states(conn)[0] == ["running", 1]

    start(lambda job, own: own.execute(call.encode(), [job.id, job.token]), slow).result()
    found = states(conn)
    assert found.pop(DONE, None) == left
    assert found == {n: ["waiting", 0] for n in range(DONE + 1, JOBS - 1)} | {JOBS - 1: ["cancelled", 0]}
    assert ran == list(range(DONE + 1))


def test_a_job_that_is_held_by_sql_is_completed_in_the_same_transaction(
    conn: Connection, start: Start, ran: list[int]
) -> None:
    """The worker does not wait for the transaction of the handler, which waits for the worker."""
    start(hold, lambda job, own: job.complete(own, 1)).result()
    assert states(conn).pop(DONE) == ["done", 1]
    assert ran[: DONE + 1] == list(range(DONE + 1))


def test_jobs_that_cannot_be_released_yet_are_not_left_to_their_leases(
    conn: Connection, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where no job is done before the one that is taken by SQL."""

    def slow(job: Job, own: psycopg.Connection[Any]) -> None:
        eventually(lambda: "cannot settle while a handler runs" in caplog.text, "the worker tries")

    start(hold, slow, 0).result()
    assert states(conn) == {n: ["waiting", 0] for n in range(1, JOBS)}
