"""The worker: outcomes of handlers, leases, logging, and stopping."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from support.database import Connect, Connection, expire, jobs, one, record, seen
from support.threads import Thread, eventually
from support.workers import MakeWorker, drain

import pgq
from pgq import Handlers, Job, Queue, Worker, WorkerQueue
from pgq.views import Views
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing


def actions(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return kind and action of each line of the log about a single job."""
    return [
        (r.kind, r.action)
        for r in caplog.records
        if hasattr(r, "job_id") and hasattr(r, "kind") and hasattr(r, "action")
    ]


def test_a_plain_handler_completes_its_job_by_returning(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """It gets the job as it was enqueued, once, and the job is gone."""
    seen: list[Job] = []
    handlers.handler("k")(seen.append)
    enqueued = queue.enqueue("k", {"to": "ann"})
    drain(loop)
    assert [(job.id, job.args, job.attempt) for job in seen] == [(enqueued.id, {"to": "ann"}, 1)]
    assert jobs(queue.conn) == []


def test_a_transactional_handler_commits_together_with_its_job(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """Its writes and the completion become visible at the same time."""
    conn = queue.conn
    conn.execute("CREATE TABLE effect (job bigint)")

    @handlers.handler("k", transaction=True)
    def write(job: Job, inside: Connection) -> None:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
        assert one(conn, "SELECT count(*) FROM effect") == 0
        assert jobs(conn) == [(job.id, "running", 1)]

    enqueued = queue.enqueue("k")
    assert loop.turn() == 1
    assert one(conn, "SELECT job FROM effect") == enqueued.id
    assert jobs(conn) == []


def test_a_transactional_handler_does_not_start_after_its_lease_is_lost(
    queue: Queue, loop: Loop, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """The job ends between its claim and its hold."""
    begun: list[int] = []

    @handlers.handler("first")
    def end_the_next(job: Job) -> None:
        queue.conn.execute("SELECT pgq_cancel_claimed(id, token) FROM pgq_running WHERE id = %s", [job.id + 1])

    handlers.handler("second", transaction=True)(lambda job, conn: begun.append(job.id))
    queue.enqueue_many([{"kind": "first"}, {"kind": "second"}])
    with caplog.at_level(logging.DEBUG, "pgq"):
        drain(loop)
    assert begun == []
    assert [state for _, state, _ in jobs(queue.conn)] == ["cancelled"]
    assert sorted(actions(caplog)) == [("first", "done"), ("second", "lost")]


def test_a_completion_with_a_lost_lease_rolls_the_writes_back(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """The handler itself releases the job that it works on."""
    queue.conn.execute("CREATE TABLE effect (job bigint)")

    @handlers.handler("k", transaction=True)
    def write(job: Job, inside: Connection) -> None:
        inside.execute("INSERT INTO effect VALUES (%s)", [job.id])
        WorkerQueue(inside).release(job)

    queue.enqueue("k")
    assert loop.turn() == 1
    assert one(queue.conn, "SELECT count(*) FROM effect") == 0
    assert [state for _, state, _ in jobs(queue.conn)] == ["running"]


@pytest.mark.parametrize("transaction", [False, True])
def test_the_result_of_a_handler_is_stored(queue: Queue, loop: Loop, handlers: Handlers, transaction: bool) -> None:
    """It is stored as JSON, even if it is falsy."""
    handlers.handler("k", transaction=transaction)(lambda job, *_: job.args)
    queue.enqueue_many([{"kind": "k", "args": args} for args in ({"n": 1}, 0, False)])
    drain(loop)
    rows = Views(queue.conn).jobs(state="done")
    assert [Views(queue.conn).job(row["id"])["result"] for row in rows] == ["false", "0", '{"n": 1}']


def test_a_batch_costs_one_commit(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """The previous batch is settled in the transaction that claims the next one."""
    conn = queue.conn
    conn.execute("CREATE TABLE seen (what text, xid text)")
    conn.execute(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO public.seen VALUES (TG_OP, pg_current_xact_id()::text); RETURN NULL; END$$"
    )
    conn.execute("CREATE TRIGGER see AFTER INSERT OR DELETE ON pgq_running FOR EACH ROW EXECUTE FUNCTION see()")
    handlers.handler("k")(lambda job: None)
    loop.batch_size.limit = 3
    queue.enqueue_many({"kind": "k", "args": n} for n in range(6))
    drain(loop)
    rows = conn.execute("SELECT xid, array_agg(what ORDER BY what) FROM seen GROUP BY xid ORDER BY xid::bigint")
    assert [what for _, what in rows] == [["INSERT"] * 3, ["DELETE"] * 3 + ["INSERT"] * 3, ["DELETE"] * 3]


@pytest.mark.parametrize("slow", [False, True])
def test_outcomes_do_not_wait_for_a_slow_job(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, slow: bool
) -> None:
    """They are settled between two jobs once 100 ms have passed, and otherwise with the next claim."""
    now = [100.0]
    loop = make_worker(timing=Timing(clock=lambda: now[0], tick=60)).loops[0]
    states: list[int] = []

    @handlers.handler("k")
    def work(job: Job) -> None:
        states.append(len(jobs(queue.conn)))
        now[0] += 0.11 if slow else 0.01

    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    drain(loop)
    assert states == ([3, 2, 1] if slow else [3, 3, 3])


@pytest.mark.parametrize("transaction", [False, True])
def test_each_job_starts_with_nearly_a_whole_lease(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, transaction: bool
) -> None:
    """A job for which a slow job leaves no time is released, and its attempt does not count."""
    now = [100.0]
    loop = make_worker(timing=Timing(clock=lambda: now[0], tick=60), lease=timedelta(seconds=60)).loops[0]
    claimed_at: list[float] = []
    attempts: list[int] = []

    @handlers.handler("k", transaction=transaction)
    def work(job: Job, *_: object) -> None:
        claimed_at.append(now[0] - loop.claimed.at)
        attempts.append(job.attempt)
        now[0] += job.args

    queue.enqueue_many({"kind": "k", "args": seconds, "dedup": False} for seconds in (5, 50, 59, 5))
    drain(loop)
    assert claimed_at == [0, 5, 0, 0]
    assert attempts == [1, 1, 1, 1]
    assert jobs(queue.conn) == []


def test_a_failure_that_waits_for_an_open_producer_is_left_to_its_lease(
    queue: WorkerQueue,
    connect: Connect,
    make_worker: MakeWorker,
    handlers: Handlers,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The rest of the batch is settled; after the producer's commit the job merges with its twin."""
    loop = make_worker(timing=Timing(lock_timeout="50ms")).loops[0]
    handlers.handler("bad")(lambda job: 1 / 0)
    handlers.handler("also bad")(lambda job: 1 / 0)
    handlers.handler("good")(lambda job: None)
    bad, other, _ = queue.enqueue_many([{"kind": "bad"}, {"kind": "also bad"}, {"kind": "good"}])
    loop.turn()
    producer = connect()
    with caplog.at_level(logging.DEBUG, "pgq"), producer.transaction():
        twin = Queue(producer).enqueue("bad")
        assert loop.turn() == 0
    assert sorted(actions(caplog)) == [("also bad", "retry"), ("bad", "left"), ("good", "done")]
    assert jobs(queue.conn) == [(bad.id, "running", 1), (other.id, "waiting", 1), (twin.id, "waiting", 0)]
    expire(queue.conn)
    queue.claim(max_jobs=0)
    assert [job_id for job_id, _, _ in jobs(queue.conn)] == [other.id, twin.id]


def test_each_outcome_is_one_log_line_without_the_payload(
    queue: Queue, loop: Loop, handlers: Handlers, caplog: pytest.LogCaptureFixture
) -> None:
    """The line has the job's id, queue and attempt as extra attributes."""
    failing: Callable[[Job], Any] = lambda job: int(job.args)  # noqa: E731
    handlers.handler("done")(lambda job: None)
    handlers.handler("inside", transaction=True)(lambda job, conn: None)
    for kind in ("retry", "dead", "merged"):
        handlers.handler(kind)(failing)
    for kind in ("done", "inside", "retry", "dead", "merged"):
        queue.enqueue(kind, "s3cret", max_retries=0 if kind == "dead" else 1)
    with caplog.at_level(logging.DEBUG, "pgq"):
        loop.turn()
        queue.enqueue("merged", "s3cret", delay="1 hour")
        assert loop.turn() == 0
    assert sorted(actions(caplog)) == [
        (kind, {"inside": "done"}.get(kind, kind)) for kind in sorted(("done", "inside", "retry", "dead", "merged"))
    ]
    assert "s3cret" not in caplog.text
    (dead,) = [record for record in caplog.records if getattr(record, "action", "") == "dead"]
    assert (dead.levelname, dead.__dict__["queue"], dead.__dict__["attempt"]) == ("ERROR", "default", 1)
    assert dead.__dict__["job_id"] > 0


def test_run_serves_its_queues_until_stopped(queue: Queue, make_worker: MakeWorker, handlers: Handlers) -> None:
    """It serves no other queue. A job that it has claimed but not begun is released, and the attempt does not count."""
    worker = make_worker(queues=["mine"])
    handlers.handler("k")(lambda job: worker.stop())
    elsewhere = queue.enqueue("k", queue="other")
    first, second = queue.enqueue_many([{"kind": "k", "args": n, "queue": "mine"} for n in range(2)])
    thread = Thread(worker.run)
    thread.result(30)
    assert jobs(queue.conn) == [(elsewhere.id, "waiting", 0), (second.id, "waiting", 0)]
    assert first.id < second.id


def test_threads_that_ask_at_once_get_the_same_parts(make_worker: MakeWorker) -> None:
    """Whichever thread is first: a worker has one presence and one list of loops."""
    for _ in range(20):
        worker, together = make_worker(), Barrier(4)

        def ask(worker: Worker = worker, together: Barrier = together) -> tuple[int, int]:
            together.wait(30)
            return id(worker.loops), id(worker.presence)

        threads = [Thread(ask) for _ in range(4)]
        assert len({thread.result(30) for thread in threads}) == 1


def test_a_stop_wakes_an_idle_worker(queue: Queue, worker: Worker) -> None:
    """Its poll interval is a minute."""
    thread = Thread(worker.run)
    idle = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgq test:%%' AND state = 'idle'"
    eventually(lambda: one(queue.conn, idle))
    worker.stop()
    thread.result(30)
    gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'pgq test:%%'"
    eventually(lambda: one(queue.conn, gone), "the session of the worker ends")


def test_a_kind_has_one_handler() -> None:
    """The second registration is refused."""
    registry = pgq.Handlers()
    registry.handler("k")(lambda job: None)
    with pytest.raises(ValueError, match="k"):
        registry.handler("k")(lambda job: None)
    assert registry.kinds == ["k"]


def test_a_worker_claims_in_read_committed_whatever_the_default(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers
) -> None:
    """This includes a single statement, to which psycopg adds no BEGIN."""
    record(conn, "pgq_running", "INSERT OR DELETE", "current_setting('transaction_isolation')")
    conn.execute(f"ALTER DATABASE {conn.info.dbname} SET default_transaction_isolation = serializable".encode())
    handlers.handler("plain")(lambda job: None)
    handlers.handler("kept")(lambda job: "result")
    handlers.handler("transactional", transaction=True)(lambda job, conn: None)
    for kind in ("plain", "kept", "transactional"):
        queue.enqueue(kind)
        loop.turn()
    drain(loop)
    assert set(seen(conn)) == {("read committed",)}


@pytest.mark.parametrize(("concurrency", "transactional", "connections"), [(1, False, 2), (3, False, 4), (3, True, 7)])
def test_a_process_has_one_or_two_connections_for_each_thread_and_one_more(
    conn: Connection,
    queue: Queue,
    dsn: str,
    handlers: Handlers,
    concurrency: int,
    transactional: bool,
    connections: int,
) -> None:
    """The second one is opened for the first transactional handler of a thread."""
    together = Barrier(concurrency)
    counts: list[int] = []

    @handlers.handler("k", transaction=transactional)
    def work(*_: Any) -> None:
        together.wait(30)
        counts.append(one(conn, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgq %'"))
        together.wait(30)

    for n in range(concurrency):
        queue.enqueue("k", n)
    Thread(Worker(dsn, handlers, concurrency=concurrency, batch=1, max_jobs=concurrency).run).result(60)
    assert counts == [connections] * concurrency
