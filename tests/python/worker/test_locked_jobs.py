"""A handler leaves a transaction open that has locked its job: the worker goes on, and settles the job later."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support.database import Connect, Connection, jobs, one
from support.threads import eventually
from support.workers import MakeWorker, drain, start

from pgq import Handlers, Job, Queue, Worker, WorkerQueue
from pgq.worker.locked import record_unlocked
from pgq.worker.loop import Loop
from pgq.worker.outcomes import Completed
from pgq.worker.settings import Timing

SHORT: dict[str, Any] = {
    "look": 60,
    "lock_timeout": "50ms",
    "longest_lock_wait": "50ms",
    "locked_again": 0.01,
    # However slow the machine is, a batch is settled as a whole.
    "settle_after": 60,
    "keep_unstarted": 60,
}
# What is done with the job in the transaction, and what becomes of the job when that commits.
CALLS: dict[str, list[tuple[str, int]]] = {
    "SELECT pgq_hold(%s, %s)": [],
    "SELECT pgq_complete(%s, %s, '1')": [("done", 1)],
    "SELECT pgq_fail(%s, %s, 'e', retry => false)": [("dead", 1)],
}


@pytest.fixture
def leave(connect: Connect, handlers: Handlers) -> Callable[..., Connection]:
    """Return a connection through which the handler of job 0 of a kind makes a call; its transaction stays open."""

    def leave(call: str = "SELECT pgq_hold(%s, %s)", result: str | None = None) -> Connection:
        own = connect(autocommit=False)

        @handlers.handler("k")
        def work(job: Job) -> str | None:
            if job.args == 0:
                own.execute(call.encode(), [job.id, job.token])
                return result
            return None

        return own

    return leave


def locked_jobs(conn: Connection) -> list[int]:
    """Return the arguments of the jobs that are running at their first attempt."""
    return [
        row[0] for row in conn.execute("SELECT args FROM _pgq_running WHERE attempt = 1 AND kind = 'k' ORDER BY args")
    ]


# Ten jobs are packed, and three are not.
@pytest.mark.happens("leaves its job locked")
@pytest.mark.parametrize("count", [3, 10])
@pytest.mark.parametrize("result", [None, "kept"])
@pytest.mark.parametrize("call", CALLS)
def test_a_worker_goes_on_while_a_transaction_has_locked_a_job(
    conn: Connection,
    queue: Queue,
    leave: Callable[..., Connection],
    handlers: Handlers,
    make_worker: MakeWorker,
    running: list[Worker],
    caplog: pytest.LogCaptureFixture,
    call: str,
    result: str | None,
    count: int,
) -> None:
    """It runs other jobs, and settles those that were locked when the transaction has ended, also while it sleeps."""
    caplog.set_level(logging.DEBUG, "pgq")
    own = leave(call, result)
    handlers.handler("next")(lambda job: None)
    worker = make_worker(timing=Timing(**SHORT))
    start(worker, running)
    queue.enqueue_many({"kind": "k", "args": n} for n in range(count))
    locked = list(range(count)) if count == 10 else [0]
    eventually(lambda: f"{len(locked)} jobs wait for a transaction" in caplog.text, "it gives up")
    queue.enqueue("next")
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_jobs WHERE kind = 'next'") == 0, "the next job is done")
    assert locked_jobs(conn) == locked
    assert sorted(outcome.job.args for outcome in worker.loops[0].locked.outcomes) == locked
    own.commit()
    eventually(lambda: locked_jobs(conn) == [], "they are settled")
    eventually(lambda: not worker.loops[0].ticker.is_running, "the loop has nothing left to do")
    done = [("done", 1)] if result else []
    assert [(state, attempt) for _, state, attempt in jobs(conn)] == (CALLS[call] or done)
    said = [record.__dict__["action"] for record in caplog.records if "job_id" in record.__dict__]
    assert sorted(set(said)) == (["done", "lost"] if CALLS[call] else ["done"])
    assert said.count("lost") == len(CALLS[call])
    assert said.count("done") == count + 1 - len(CALLS[call])


@pytest.mark.parametrize("pooler", [False, True])
@pytest.mark.parametrize("settle_after", [60.0, -1.0])
def test_a_settlement_waits_for_a_lock_no_longer_than_it_may(
    conn: Connection,
    queue: Queue,
    leave: Callable[..., Connection],
    make_worker: MakeWorker,
    pooler: bool,
    settle_after: float,
) -> None:
    """Also behind a pooler, and where the loop settles between two jobs; then those that have not begun go back."""
    own = leave()
    loop = make_worker(transaction_pooler=pooler, timing=Timing(**SHORT | {"settle_after": settle_after})).loops[0]
    queue.enqueue_many({"kind": "k", "args": n} for n in range(10))
    loop._go_on()
    if settle_after > 0:
        assert [outcome.job.args for outcome in loop.pending] == list(range(10))
        loop._go_on()
    assert not loop.settler.has_pending
    assert locked_jobs(conn) == list(range(10))
    own.rollback()

    def retry() -> bool:
        loop.tick()
        return not loop.pending

    eventually(retry, "those that were locked are settled")
    drain(loop)
    assert jobs(conn) == []


@pytest.mark.happens("leaves its job locked")
def test_a_job_that_is_locked_for_longer_than_its_lease_is_left_to_it(
    conn: Connection,
    queue: WorkerQueue,
    leave: Callable[..., Connection],
    handlers: Handlers,
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is overdue while the transaction is open, and then rescued. A reconcile knows it until then."""
    now = [0.0]
    lease = timedelta(seconds=30)
    own = leave()
    handlers.handler("next")(lambda job: None)
    loop = make_worker(lease=lease, timing=Timing(**SHORT, clock=lambda: now[0])).loops[0]
    job_id = queue.enqueue("k", 0).id
    loop.turn()
    loop._go_on()
    queue.enqueue("next")
    now[0] = 29.0
    assert loop.turn() == 1
    loop.settle()
    loop.tick()
    assert [outcome.job.id for outcome in loop.pending] == [job_id]
    assert job_id in [job.id for job in loop.known_jobs()]
    now[0] = 31.0
    loop.tick()
    assert loop.pending == []
    assert job_id in [job.id for job in loop.known_jobs()]
    assert f"job {job_id} k attempt 1: left" in caplog.text
    assert jobs(conn) == [(job_id, "running", 1)]
    own.rollback()
    conn.execute("UPDATE pgq_running SET lease_until = now() - interval '1 second'")
    assert [(job.id, job.attempt) for job in queue.claim()] == [(job_id, 2)]


def test_what_was_left_to_its_lease_is_forgotten_after_the_rescue(
    queue: Queue, connect: Connect, handlers: Handlers, make_worker: MakeWorker
) -> None:
    """It keeps the arguments of all jobs of its claim."""
    now = [0.0]
    worker = make_worker(timing=Timing(look=60, lock_timeout="50ms", clock=lambda: now[0]))
    (loop,) = worker.loops
    handlers.handler("bad")(lambda job: 1 / 0)
    handlers.handler("good")(lambda job: None)
    queue.enqueue("bad")
    loop.turn()
    producer = connect()
    with producer.transaction():
        Queue(producer).enqueue("bad")
        loop.turn()
    assert len(loop.settler._left) == 1
    now[0] += 2 * worker.settings.lease.total_seconds() + 1
    queue.enqueue("good")
    drain(loop)
    assert loop.settler._left == []


@pytest.mark.happens("leaves its job locked")
def test_a_worker_that_stops_leaves_a_locked_job_to_its_lease(
    conn: Connection,
    queue: Queue,
    leave: Callable[..., Connection],
    make_worker: MakeWorker,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It stays registered, so that its end frees the job, and settles the others."""
    own = leave()
    worker = make_worker(timing=Timing(**SHORT))
    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    loop = worker.loops[0]
    loop.turn()
    loop.finish()
    assert locked_jobs(conn) == [0]
    assert [outcome.job.args for outcome in loop.pending] == [0]
    assert "1 jobs are left to their leases: a transaction has locked them" in caplog.text
    own.rollback()


def test_a_job_that_has_ended_does_not_unpack_its_batch(queue: WorkerQueue, loop: Loop) -> None:
    """Where the first outcome of a claim is recorded already, another job of the claim lets the server unpack it."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(10))
    claim = loop.settler.settle_and_claim(10)
    assert claim is not None
    first, second, *_ = claim.jobs()
    assert queue.complete_many([first]) == {first.id}
    assert claim.packed
    settlements = record_unlocked(queue, [Completed(first), Completed(second)], "1s")
    assert [settlement.state for settlement in settlements] == ["lost", "done"]
    assert not claim.packed
    assert one(queue.conn, "SELECT count(*) FROM _pgq_packed") == 0
    assert one(queue.conn, "SELECT count(*) FROM pgq_running") == 8
