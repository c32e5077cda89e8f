"""Between two transactional handlers: one message, which also holds the next job; a job that is not run is let go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.numeric import IntDumper
from support.database import Connection, jobs, one
from support.modes import MODES, write
from support.workers import MakeWorker, drain

from pgq import Handlers, Job, NewJob, Queue
from pgq.views import Views
from pgq.worker.executor import Executor
from pgq.worker.inside import Inside
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing
from pgq.worker.transactions import QUICK, Transactions

Sent = list[tuple[str, ...]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """The messages of the worker to the session of transactional handlers."""
    found: Sent = []
    send = Inside.send

    def note(self: Inside, *statements: str) -> tuple[str, ...]:
        found.append(tuple(statement.split("(")[0] for statement in statements))
        return send(self, *statements)

    monkeypatch.setattr(Inside, "send", note)
    return found


def test_what_comes_between_two_jobs_is_one_message(queue: Queue, loop: Loop, handlers: Handlers, sent: Sent) -> None:
    """It completes the first one, commits, resets the session, and holds the second one."""
    handlers.handler("k", transaction=True)(lambda job, conn: None)
    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    loop.batch_size.limit = 3
    assert loop.turn() == 3
    assert [[statements[0].split()[0], statements[-1].split()[0]] for statements in sent] == [
        ["BEGIN", "SELECT"],
        ["SELECT", "SELECT"],
        ["SELECT", "SELECT"],
        ["SELECT", "COMMIT"],
    ]
    assert [statements.count("COMMIT") for statements in sent] == [0, 2, 2, 2]
    assert jobs(queue.conn) == []


def test_a_job_of_a_transactional_batch_costs_one_message(
    queue: Queue, loop: Loop, handlers: Handlers, sent: Sent
) -> None:
    """One more holds the batch, and one commits it."""
    handlers.handler("k", transaction=True, batch=10)(lambda job, conn: job.args or None)
    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    loop.turn()
    assert [len(statements) for statements in sent] == [3, 3, 3, 2, 1]
    assert sent[-1] == ("COMMIT",)


def close_gate(loop: Loop) -> None:
    """Let another loop run a suspect."""
    loop.gate.is_closed = lambda now: True  # type: ignore[method-assign]


def cancel(loop: Loop) -> None:
    """Mark the jobs that have not begun, as presence does."""
    for job in loop.claimed.unstarted:
        job._claim.cancelled.add(job.id)


LETS_GO: dict[str, Callable[[Loop], object]] = {
    "the worker is to stop": lambda loop: loop.state.stop(),
    "another loop runs a suspect": close_gate,
    "the ticker has released it": lambda loop: loop.claimed.release_unstarted(),
    "it is to be cancelled": cancel,
}


@pytest.mark.parametrize("settle_after", [60.0, -1.0])
@pytest.mark.parametrize("what", LETS_GO)
def test_a_job_that_is_held_and_not_run_is_let_go(
    conn: Connection,
    queue: Queue,
    make_worker: MakeWorker,
    handlers: Handlers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
    settle_after: float,
) -> None:
    """It is released at once, with no attempt lost: no transaction of its worker is in the way."""
    conn.execute("CREATE TABLE effect (job bigint)")
    # A release that waits for a lock gives up soon, and leaves the job to its lease.
    loop = make_worker(timing=Timing(lock_timeout="10ms", settle_after=settle_after)).loops[0]
    commit, held = Transactions._commit, list[Any]()

    def let_go_after(self: Transactions, *args: Any) -> bool:
        done = commit(self, *args)
        if self._ahead is not None:
            held.append(self._ahead.job_id)
            LETS_GO[what](loop)
        return done

    monkeypatch.setattr(Transactions, "_commit", let_go_after)

    @handlers.handler("k", transaction=True)
    def work(job: Job, inside: Connection) -> None:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
        inside.execute("SET statement_timeout = '19s'")

    ids = [job.id for job in queue.enqueue_many({"kind": "k", "args": n} for n in range(2))]
    loop.batch_size.limit = 2
    with caplog.at_level(logging.DEBUG, "pgq"):
        assert loop.turn() == 2
        loop.claimed.release_unstarted()
        loop.settle()
    assert held == [ids[1]]
    assert jobs(conn) == [(ids[1], "waiting", 0)]
    # What resets the session is not undone with the transaction that holds the job.
    assert one(loop.inside.queue().conn, "SHOW statement_timeout") != "19s"
    assert conn.execute("SELECT job FROM effect").fetchall() == [(ids[0],)]
    assert [record.__dict__["action"] for record in caplog.records if "job_id" in record.__dict__] == [
        "done",
        "released",
    ]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", MODES)
def test_another_job_than_the_one_that_is_held_is_run_outside_its_transaction(
    conn: Connection,
    queue: Queue,
    loop: Loop,
    handlers: Handlers,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    late: bool,
) -> None:
    """
    The first job of the three is transactional, and so is the second, which the ticker releases, perhaps after the loop
    has looked which job comes next; a plain handler is then begun at once.
    """
    if late and kind != "plain":
        let_go = Executor.let_go
        monkeypatch.setattr(Executor, "let_go", lambda self, *, unless=None: unless is None and let_go(self))
    commit, held, free = Transactions._commit, list[int](), list[Any]()

    def release_after(self: Transactions, *args: Any) -> bool:
        done = commit(self, *args)
        if self._ahead is not None and not held:
            held.append(self._ahead.job_id)
            loop.claimed.next()
        return done

    monkeypatch.setattr(Transactions, "_commit", release_after)

    def look(*_: Any) -> None:
        free.extend(conn.execute("SELECT id FROM pgq_running WHERE id = %s FOR UPDATE SKIP LOCKED", held).fetchall())

    handlers.handler("first", transaction=True)(lambda job, inside: None)
    handlers.handler("other", **MODES[kind])(look)
    ids = [job.id for job in queue.enqueue_many([{"kind": "first"}, {"kind": "first", "args": 2}, {"kind": "other"}])]
    loop.batch_size.limit = 3
    assert loop.turn() == 3
    assert held == [ids[1]]
    assert free == [(ids[1],)]


def test_a_job_whose_session_has_ended_after_it_was_held_is_held_anew(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its handler does not run outside a transaction."""
    conn.execute("CREATE TABLE effect (job bigint)")
    commit, held = Transactions._commit, list[int]()

    def close_after(self: Transactions, *args: Any) -> bool:
        done = commit(self, *args)
        if self._ahead is not None:
            held.append(self._ahead.job_id)
            loop.inside.close()
        return done

    monkeypatch.setattr(Transactions, "_commit", close_after)
    handlers.handler("k", transaction=True)(write)
    ids = [job.id for job in queue.enqueue_many({"kind": "k", "args": n} for n in range(2))]
    loop.batch_size.limit = 2
    loop.turn()
    assert held == [ids[1]]
    assert jobs(conn) == []
    assert [row[0] for row in conn.execute("SELECT job FROM effect ORDER BY job")] == ids


def test_no_job_is_held_ahead_by_a_slow_handler(queue: Queue, loop: Loop, handlers: Handlers, sent: Sent) -> None:
    """The ticker may be about to release it."""
    handlers.handler("k", transaction=True)(lambda job, conn: time.sleep(1.1 * QUICK))
    queue.enqueue_many({"kind": "k", "args": n} for n in range(2))
    loop.batch_size.limit = 2
    assert loop.turn() == 2
    assert [statements[-1].split()[0] for statements in sent] == ["SELECT", "COMMIT"] * 2


def test_a_job_that_is_lost_before_it_is_held_ahead_does_not_run(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """The one before it is done, and so is the one after it."""
    ran: list[int] = []

    @handlers.handler("k", transaction=True)
    def work(job: Job, _: Connection) -> None:
        ran.append(job.args)
        if job.args == 0:
            conn.execute("SELECT pgq_cancel_claimed(id, token) FROM pgq_running WHERE id = %s", [job.id + 1])

    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    loop.batch_size.limit = 3
    with caplog.at_level(logging.DEBUG, "pgq"):
        loop.turn()
    assert ran == [0, 2]
    assert [record.__dict__["action"] for record in caplog.records if "job_id" in record.__dict__] == [
        "done",
        "lost",
        "done",
    ]


def test_a_job_of_a_batch_that_is_lost_before_it_is_held_does_not_run(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """The others of its batch are done."""
    ran: list[int] = []
    handlers.handler("k", transaction=True, batch=10)(lambda job, _: ran.append(job.args))

    @handlers.handler("first")
    def first(job: Job) -> None:
        conn.execute("SELECT pgq_cancel_claimed(id, token) FROM pgq_running WHERE args = '1'")

    batch: list[NewJob] = [{"kind": "k", "args": n} for n in range(3)]
    queue.enqueue_many([{"kind": "first"}, *batch])
    loop.batch_size.limit = 4
    with caplog.at_level(logging.DEBUG, "pgq"):
        drain(loop)
    assert ran == [0, 2]
    actions = [
        (record.__dict__["kind"], record.__dict__["action"]) for record in caplog.records if "job_id" in record.__dict__
    ]
    assert sorted(actions) == [("first", "done"), ("k", "done"), ("k", "done"), ("k", "lost")]


def test_a_job_that_is_lost_is_logged_although_its_batch_is_rolled_back(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """Another job of the batch has ended the transaction."""
    handlers.handler("first")(
        lambda job: conn.execute("SELECT pgq_release(id, token) FROM pgq_running WHERE args = '0'") and None
    )

    @handlers.handler("k", transaction=True, batch=10)
    def work(job: Job, inside: Connection) -> None:
        inside.execute("ROLLBACK")

    batch: list[NewJob] = [{"kind": "k", "args": n} for n in range(2)]
    _, *ids = [job.id for job in queue.enqueue_many([{"kind": "first"}, *batch])]
    loop.batch_size.limit = 3
    loop.turn()
    lost = [record.__dict__["job_id"] for record in caplog.records if record.__dict__.get("action") == "lost"]
    assert lost == [ids[0]]


@pytest.mark.parametrize("batch", [None, 10])
def test_the_completion_of_a_job_that_its_handler_has_ended_undoes_its_writes_only(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers, batch: int | None
) -> None:
    """The handler completes the job through its connection, so the worker finds the lease lost."""
    conn.execute("CREATE TABLE effect (job bigint)")

    @handlers.handler("k", transaction=True, batch=batch)
    def work(job: Job, inside: Connection) -> None:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
        if job.args == 1:
            inside.execute("SELECT pgq_complete(%s, %s)", [job.id, job.token])

    ids = [job.id for job in queue.enqueue_many({"kind": "k", "args": n} for n in range(3))]
    loop.batch_size.limit = 3
    loop.turn()
    assert [row[0] for row in conn.execute("SELECT job FROM effect ORDER BY job")] == [ids[0], ids[2]]
    assert jobs(conn) == [(ids[1], "running", 1)]


@pytest.mark.parametrize("batch", [None, 10])
def test_a_result_is_quoted_whatever_the_handler_has_changed(
    queue: Queue, loop: Loop, handlers: Handlers, batch: int | None
) -> None:
    """Neither the meaning of backslashes, nor the encoding, nor the adapter of text matters."""
    results = ["it's", 'a "\\" b', "\\'; DROP TABLE pgq_waiting; --", "100 % of %s", "\u00e9", {"$$": ["\n\t", None]}]

    @handlers.handler("k", transaction=True, batch=batch)
    def work(job: Job, conn: Connection) -> Any:
        conn.execute("SET standard_conforming_strings = off")
        conn.execute("SET client_encoding = 'latin1'")
        # It writes text without quotes.
        conn.adapters.register_dumper(str, IntDumper)
        return results[job.args]

    ids = [job.id for job in queue.enqueue_many({"kind": "k", "args": n} for n in range(len(results)))]
    drain(loop)
    found = [one(queue.conn, "SELECT result FROM pgq_ended WHERE id = %s", job_id) for job_id in ids]
    assert found == results


def test_a_handler_that_commits_through_its_connection_has_committed_nothing(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers
) -> None:
    """The same holds for ``with conn``, which would also close it."""
    conn.execute("CREATE TABLE effect (job bigint)")

    @handlers.handler("k", transaction=True)
    def work(job: Job, inside: Connection) -> None:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
        if job.args == 0:
            inside.commit()
        with inside:
            pass

    ids = [job.id for job in queue.enqueue_many({"kind": "k", "args": n, "max_retries": 0} for n in range(2))]
    drain(loop)
    assert jobs(conn) == [(job_id, "dead", 1) for job_id in ids]
    assert one(conn, "SELECT count(*) FROM effect") == 0
    for job_id in ids:
        assert "leaves it to the worker to commit" in Views(conn).job(job_id)["errors"][0]["error"]


def test_a_handler_that_rolls_back_through_its_connection_is_told_so(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers
) -> None:
    """The error of its job says what to do instead."""
    handlers.handler("k", transaction=True)(lambda job, inside: inside.rollback())
    job_id = queue.enqueue("k", max_retries=0).id
    drain(loop)
    assert jobs(conn) == [(job_id, "dead", 1)]
    assert "raises an exception to roll back" in Views(conn).job(job_id)["errors"][0]["error"]


def test_a_handler_may_use_blocks_of_its_own(conn: Connection, queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """They are savepoints: what is rolled back in one is undone, and the rest is committed with the job."""
    conn.execute("CREATE TABLE effect (job bigint)")

    @handlers.handler("k", transaction=True)
    def work(job: Job, inside: Connection) -> None:
        with inside.transaction():
            inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
        with inside.transaction() as block:
            inside.execute("INSERT INTO effect VALUES (0)")
            raise psycopg.Rollback(block)

    ids = [job.id for job in queue.enqueue_many({"kind": "k", "args": n} for n in range(2))]
    drain(loop)
    assert jobs(conn) == []
    assert [row[0] for row in conn.execute("SELECT job FROM effect ORDER BY job")] == ids
