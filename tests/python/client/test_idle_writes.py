"""Idle sessions write nothing: a claim that finds no job, and the maintenance inside it, assign no transaction id."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from support.database import Connect, Connection, one
from support.threads import Thread, eventually

from pgq import Handlers, Worker, WorkerQueue

NEXT_XID = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"


def writes(queue: WorkerQueue) -> bool:
    """Return whether a claim that finds no job writes something."""
    with queue.conn.transaction():
        assert queue.claim(["idle"]) == []
        return one(queue.conn, "SELECT pg_current_xact_id_if_assigned()") is not None


@pytest.fixture
def present(connect: Connect) -> list[WorkerQueue]:
    """Three registered workers that sleep."""
    workers = [WorkerQueue(connect()) for _ in range(3)]
    for n, worker in enumerate(workers):
        worker.register(f"present-{n}", ["idle"])
        worker.conn.execute("SELECT pgq_idle('{idle}')")
        worker.claim(["idle"])
    return workers


def leave(conn: Connection, connect: Connect) -> None:
    """Register a worker, and end its session."""
    gone = connect()
    WorkerQueue(gone).register("gone", ["idle"])
    gone.close()
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_workers WHERE NOT present") == 1)


def test_claims_of_idle_workers_write_nothing(present: list[WorkerQueue]) -> None:
    """Each claim looks for workers that are gone, and for leases that have ended."""
    assert [writes(worker) for _ in range(3) for worker in present] == [False] * 9


def test_a_new_session_that_finds_no_job_writes_nothing(connect: Connect, present: list[WorkerQueue]) -> None:
    """Clients that connect for one claim are many."""
    assert not any(writes(WorkerQueue(connect())) for _ in range(3))


def test_a_worker_that_is_gone_is_recorded_once(
    conn: Connection, connect: Connect, present: list[WorkerQueue], grown_up: None
) -> None:
    """Until it is deleted, ten seconds later, no claim locks its row."""
    leave(conn, connect)
    assert writes(present[0])
    assert [writes(worker) for _ in range(3) for worker in present] == [False] * 9
    assert one(conn, "SELECT count(*) FROM pgq_worker_session WHERE name = 'gone'") == 1
    conn.execute("UPDATE pgq_worker_session SET gone_at = gone_at - interval '11 seconds'")
    assert writes(present[0])
    assert one(conn, "SELECT count(*) FROM pgq_worker_session WHERE name = 'gone'") == 0
    assert [writes(worker) for worker in present] == [False] * 3


def test_a_worker_that_is_gone_and_kept_is_not_locked(
    conn: Connection, connect: Connect, present: list[WorkerQueue], grown_up: None
) -> None:
    """It is kept because of a job in a queue that its role may no longer use, which runs until its lease ends."""
    leave(conn, connect)
    queue = WorkerQueue(conn)
    queue.enqueue("k", queue="other")
    queue.claim(["other"], worker="gone")
    conn.execute("UPDATE pgq_worker_session SET allowed_queues = '{idle}' WHERE name = 'gone'")
    present[0].claim(["idle"])
    conn.execute("UPDATE pgq_worker_session SET gone_at = gone_at - interval '11 seconds'")
    assert [writes(worker) for _ in range(3) for worker in present] == [False] * 9
    assert one(conn, "SELECT count(*) FROM pgq_worker_session WHERE name = 'gone'") == 1


def test_an_idle_worker_assigns_no_transaction_id(
    conn: Connection, dsn: str, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does its presence, whatever it does between the looks of its loop."""
    looks = []
    ripe_in = WorkerQueue.ripe_in

    def count(queue: WorkerQueue, queues: Sequence[str]) -> timedelta | None:
        looks.append(queues)
        return ripe_in(queue, queues)

    monkeypatch.setattr(WorkerQueue, "ripe_in", count)
    handlers.handler("k")(lambda job: None)
    worker = Worker(dsn, handlers, poll=0.02, lease=timedelta(seconds=0.6))
    thread = Thread(worker.run)
    eventually(lambda: one(conn, "SELECT count(*) FROM pgq_workers WHERE present") == 1)

    def is_silent() -> bool:
        before, begun = one(conn, NEXT_XID), len(looks)
        eventually(lambda: len(looks) > begun + 20, "the worker looks for ripe jobs")
        return bool(one(conn, NEXT_XID) == before)

    # The server's own processes assign transaction ids, too, but not all the time.
    eventually(is_silent, "the worker looks twenty times, and writes nothing", 30)
    worker.stop()
    thread.result(30)
