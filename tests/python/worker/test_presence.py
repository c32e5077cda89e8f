"""Presence: what a registered worker's jobs gain by it, and what happens to them when the worker is gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import psycopg
import pytest
from support.database import Connect, Connection, jobs, one
from support.threads import Thread, eventually
from support.workers import MakeWorker, start

from pgq import Drain, Handlers, Job, Queue, Worker, WorkerQueue, WrongState
from pgq.worker.presence import Presence
from pgq.worker.settings import Timing
from pgq.worker.settle import Settler

PRESENCE = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%% presence'"


@pytest.fixture
def present(dsn: str, handlers: Handlers) -> Iterator[Worker]:
    """A present worker with a short lease."""
    worker = Worker(dsn, handlers, poll=0.1, name="present", lease=timedelta(seconds=0.6))
    yield worker
    worker.stop()


def names(conn: Connection) -> list[str]:
    """Return the registered workers, without their labels."""
    return [
        row[0].split(":")[0] for row in conn.execute("SELECT name FROM pgq_worker_session ORDER BY name").fetchall()
    ]


def test_a_worker_is_registered_while_it_runs(conn: Connection, present: Worker) -> None:
    """It is registered with its queues, host and process, and unregistered when it stops."""
    thread = Thread(present.run)
    eventually(lambda: names(conn) == ["present"])
    row = conn.execute("SELECT queues, host IS NOT NULL, pid IS NOT NULL, present, running FROM pgq_workers").fetchone()
    assert row == (["default"], True, True, True, 0)
    present.stop()
    thread.result(30)
    assert names(conn) == []


def test_the_lease_of_a_running_handler_is_extended(
    conn: Connection, queue: WorkerQueue, handlers: Handlers, present: Worker
) -> None:
    """No other worker gets the job, however long it runs, and it is done at its first attempt."""
    attempts: list[int] = []

    @handlers.handler("long")
    def long(job: Job) -> None:
        attempts.append(job.attempt)
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            assert queue.claim(worker="another") == []
            time.sleep(0.02)

    queue.enqueue("long")
    thread = Thread(present.run)
    eventually(lambda: attempts and jobs(conn) == [])
    present.stop()
    thread.result(30)
    assert attempts == [1]


def test_the_leases_of_all_jobs_of_a_batch_are_extended(
    conn: Connection, queue: Queue, dsn: str, handlers: Handlers
) -> None:
    """Jobs that are claimed together share a token, and each has a lease."""
    behind = "SELECT count(*) FROM pgq_running WHERE lease_until <= claimed_at + interval '3 s'"

    @handlers.handler("k", batch=10)
    def wait(jobs: list[Job]) -> None:
        eventually(lambda: one(conn, behind) == 0, "all leases are extended")

    queue.enqueue_many({"kind": "k", "args": n} for n in range(4))
    worker = Worker(dsn, handlers, poll=0.1, lease=timedelta(seconds=3), drain=Drain(until_empty=True))
    Thread(worker.run).result(60)
    assert jobs(conn) == []


def test_no_lease_is_extended_past_a_timeout(
    conn: Connection, queue: WorkerQueue, handlers: Handlers, present: Worker
) -> None:
    """A handler that cannot be interrupted loses its job to another worker."""
    go = threading.Event()
    handlers.handler("stuck", timeout=0.2)(lambda job: go.wait(30) and None)
    queue.enqueue("stuck", max_retries=1)
    thread = Thread(present.run)
    eventually(lambda: jobs(conn) and jobs(conn)[0][2] == 1 and queue.claim(worker="another"))
    go.set()
    present.stop()
    thread.result(30)
    assert [state for _, state, _ in jobs(conn)] == ["running"]


def test_a_longer_lease_of_a_handler_starts_with_it(
    conn: Connection, queue: Queue, handlers: Handlers, present: Worker
) -> None:
    """The lease of the claim is shorter."""
    go = threading.Event()
    handlers.handler("rare", lease=timedelta(hours=1))(lambda job: go.wait(30) and None)
    queue.enqueue("rare")
    thread = Thread(present.run)
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_running WHERE lease_until > now() + interval '50 minutes'"))
    go.set()
    eventually(lambda: jobs(conn) == [])
    present.stop()
    thread.result(30)


def test_a_lease_is_extended_while_the_worker_cannot_register(
    conn: Connection,
    connect: Connect,
    queue: Queue,
    handlers: Handlers,
    make_worker: MakeWorker,
    running: list[Worker],
) -> None:
    """After a lost connection a client has found the worker gone, in the transaction of a claim that stays open."""
    worker = make_worker(timing=Timing(look=60, lock_timeout="50ms"))
    client = connect(autocommit=False)
    extended: list[bool] = []

    @handlers.handler("k")
    def work(job: Job) -> None:
        client.execute("SELECT FROM pgq_worker_session FOR UPDATE")
        conn.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE '%% presence'"
        )
        eventually(lambda: one(conn, PRESENCE) == 1, "the worker connects again")
        job.extend(timedelta(hours=1))
        extended.append(one(conn, "SELECT present FROM pgq_workers"))
        client.rollback()

    start(worker, running)
    queue.enqueue("k")
    eventually(lambda: extended, "it is extended", 60)
    eventually(lambda: one(conn, "SELECT present FROM pgq_workers"), "the worker registers")
    eventually(lambda: jobs(conn) == [])
    assert extended == [False]


def test_a_lost_presence_connection_is_replaced(
    conn: Connection, queue: WorkerQueue, handlers: Handlers, present: Worker, grown_up: None
) -> None:
    """The worker registers again before the next sweep, and keeps its running job."""
    go, attempts = threading.Event(), []

    @handlers.handler("k")
    def wait(job: Job) -> None:
        attempts.append(job.attempt)
        assert go.wait(30)

    queue.enqueue("k")
    thread = Thread(present.run)
    eventually(lambda: attempts)
    conn.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE '%% presence'"
    )
    eventually(lambda: one(conn, PRESENCE) == 1 and one(conn, "SELECT present FROM pgq_workers"))
    for _ in range(3):
        assert queue.claim(worker="another") == []
    go.set()
    eventually(lambda: jobs(conn) == [])
    present.stop()
    thread.result(30)
    assert attempts == [1]


def test_a_handler_that_reconnects_keeps_its_worker_present(
    conn: Connection, queue: WorkerQueue, present: Worker
) -> None:
    """A handler may be the first to notice, in job.extend, that the connection of presence is lost."""
    presence, lease = present.presence, timedelta(minutes=5)
    queue.enqueue("k")
    (job,) = queue.claim(worker=present.settings.name)
    with closing(present):
        presence.tick()
        conn.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE '%% presence'"
        )
        with pytest.raises(psycopg.OperationalError):
            presence.extend(job, lease)
        presence.extend(job, lease)
        assert one(conn, "SELECT present FROM pgq_workers")


def test_a_worker_registers_again_after_a_loop_has_noticed_that_its_connection_is_lost(
    conn: Connection, present: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop uses the connection when it goes to sleep, while the thread of presence waits for notifications."""
    presence = present.presence

    def notice(*_: object) -> list[int]:
        conn.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name LIKE '%% presence'"
        )
        with pytest.raises(psycopg.OperationalError):
            presence.session.queue().version()
        return []

    with closing(present):
        presence.tick()
        monkeypatch.setattr(presence._wakeup, "wait", notice)
        presence._sleep(1)
        presence.tick()
        assert one(conn, "SELECT present FROM pgq_workers")


def test_a_connection_lost_during_a_reconcile_leads_to_another(
    present: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first reconcile may have come before the claim whose result is lost."""
    calls = []

    def reconcile(queue: WorkerQueue, worker: str, jobs: list[Job]) -> int:
        calls.append(worker)
        if len(calls) == 1:
            present.presence.mark_uncertain()
        return 0

    monkeypatch.setattr(WorkerQueue, "reconcile", reconcile)
    with closing(present):
        present.presence.mark_uncertain()
        for _ in range(3):
            present.presence.tick()
    assert len(calls) == 2


def test_a_reconcile_leaves_a_failed_job_to_its_lease(
    queue: Queue, conn: Connection, connect: Connect, handlers: Handlers, make_worker: MakeWorker
) -> None:
    """A producer's open transaction holds its twin. Its attempt was made, unlike that of a job that did not arrive."""
    worker = make_worker(timing=Timing(look=60, lock_timeout="50ms"))
    (loop,) = worker.loops
    handlers.handler("bad")(lambda job: 1 / 0)
    queue.enqueue("bad")
    producer = connect()
    with closing(worker):
        worker.presence.tick()
        loop.turn()
        with producer.transaction():
            Queue(producer).enqueue("bad")
            loop.turn()
        worker.presence.mark_uncertain()
        worker.presence.tick()
        assert [(state, attempt) for _, state, attempt in jobs(conn)] == [("running", 1), ("waiting", 0)]


def test_the_loops_exist_before_the_thread_of_presence_reads_them(
    present: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other thread has to wait for them, or to make them."""
    existed = []

    def start(presence: Presence) -> None:
        existed.append(vars(present)["_loops"] is not None)
        present.stop()

    monkeypatch.setattr(Presence, "start", start)
    present.run()
    assert existed == [True]


def test_leases_are_extended_without_presence(
    conn: Connection, queue: WorkerQueue, dsn: str, handlers: Handlers
) -> None:
    """The worker opens a connection when needed, and keeps no state in its session."""
    worker = Worker(dsn, handlers, poll=0.1, lease=timedelta(seconds=0.6), transaction_pooler=True)
    attempts: list[int] = []

    @handlers.handler("long")
    def long(job: Job) -> None:
        attempts.append(job.attempt)
        time.sleep(2)

    handlers.handler("quick")(lambda job: None)
    thread = Thread(worker.run)
    queue.enqueue("quick")
    eventually(lambda: jobs(conn) == [])
    assert one(conn, PRESENCE) == 0
    queue.enqueue("long")
    eventually(lambda: attempts)
    while queue.remaining().running:
        assert queue.claim(worker="another") == []
        time.sleep(0.02)
    worker.stop()
    thread.result(30)
    assert attempts == [1]
    assert names(conn) == []


def test_a_name_belongs_to_one_session(conn: Connection, connect: Connect) -> None:
    """Another session can register the name when the first one ends."""
    first, second = connect(), connect()
    WorkerQueue(first).register("me")
    with pytest.raises(WrongState, match="is registered by another session"):
        WorkerQueue(second).register("me")
    first.close()
    eventually(lambda: one(conn, "SELECT count(*) FROM _pgq_presence") == 0)
    WorkerQueue(second).register("me")
    assert WorkerQueue(second).unregister("me")


def test_concurrent_sweeps_do_not_wait_for_each_other(
    conn: Connection, connect: Connect, queue: WorkerQueue, grown_up: None
) -> None:
    """The jobs of a worker that is gone are rescued once."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(10))
    gone = connect()
    WorkerQueue(gone).register("gone")
    queue.claim(max_jobs=10, worker="gone")
    gone.close()
    eventually(lambda: one(conn, "SELECT count(*) FROM _pgq_presence") == 0)
    a, b = WorkerQueue(connect()), WorkerQueue(connect())
    b.conn.execute("SET lock_timeout = '2s'")
    for sweeping in (a, b):
        sweeping.claim(max_jobs=0)
    with a.conn.transaction(), b.conn.transaction():
        a.claim(max_jobs=0)
        b.claim(max_jobs=0)
    assert {(state, attempt) for _, state, attempt in jobs(conn)} == {("waiting", 0)}
    assert one(conn, "SELECT array_agg(DISTINCT losses) FROM pgq_jobs") == [1]


def test_clients_that_claim_once_rescue_the_jobs_of_a_worker_that_is_gone(
    conn: Connection, connect: Connect, queue: WorkerQueue, grown_up: None
) -> None:
    """Each connects, claims and disconnects, and no other session claims."""
    queue.enqueue("k")
    gone = connect()
    WorkerQueue(gone).register("gone")
    WorkerQueue(gone).claim(worker="gone")
    gone.close()

    def claim_once() -> list[Job]:
        with closing(connect()) as once:
            return WorkerQueue(once).claim()

    assert [job.attempt for job in eventually(claim_once, "a new session claims the job", 5)] == [2]


def test_jobs_of_a_worker_that_is_gone_are_rescued_after_the_clock_was_set_back(
    conn: Connection, connect: Connect, queue: WorkerQueue, grown_up: None
) -> None:
    """Their claims, and the end of the worker as another session has seen it, lie ahead."""
    enqueued = queue.enqueue("k")
    gone = connect()
    WorkerQueue(gone).register("gone")
    queue.claim(worker="gone")
    gone.close()
    eventually(lambda: one(conn, "SELECT count(*) FROM _pgq_presence") == 0)
    conn.execute("UPDATE pgq_running SET claimed_at = now() + '5 minutes', lease_until = now() + '10 minutes'")
    conn.execute("UPDATE pgq_worker_session SET gone_at = now() + '5 minutes'")
    assert queue.claim(max_jobs=0) == []
    assert jobs(conn) == [(enqueued.id, "waiting", 1)]
    assert one(conn, "SELECT errors->0->>'error' FROM pgq_jobs") == "the worker is gone"
    assert one(conn, "SELECT gone_at < now() FROM pgq_worker_session")


def test_a_job_that_a_dying_worker_still_holds_is_not_rescued(
    conn: Connection, connect: Connect, queue: WorkerQueue, grown_up: None
) -> None:
    """The worker's presence is gone, but one of its statements still runs."""
    enqueued = queue.enqueue("k")
    gone, holder = connect(), connect()
    WorkerQueue(gone).register("gone")
    (job,) = queue.claim(worker="gone")
    gone.close()
    eventually(lambda: one(conn, "SELECT count(*) FROM _pgq_presence") == 0)
    with holder.transaction():
        WorkerQueue(holder).hold(job)
        for _ in range(2):
            assert queue.claim() == []
    assert jobs(conn) == [(enqueued.id, "running", 1)]
    (again,) = queue.claim()
    assert (again.id, again.attempt) == (enqueued.id, 2)


def test_a_worker_that_fails_leaves_its_jobs_to_others_at_once(
    conn: Connection, queue: WorkerQueue, dsn: str, handlers: Handlers, monkeypatch: pytest.MonkeyPatch, grown_up: None
) -> None:
    """It does not unregister, so its jobs are rescued like those of a killed worker, before the lease ends."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    @handlers.handler("k")
    def work(job: Job) -> str:
        monkeypatch.setattr(Settler, "settle", fail)
        monkeypatch.setattr(Settler, "settle_and_claim", fail)
        return "kept"

    enqueued = queue.enqueue("k")
    with pytest.raises(ZeroDivisionError):
        Thread(Worker(dsn, handlers, lease=timedelta(minutes=5)).run).result(30)
    assert jobs(conn) == [(enqueued.id, "running", 1)]
    queue.claim(["other"])
    eventually(lambda: [job.attempt for job in queue.claim()] == [2], seconds=10)
