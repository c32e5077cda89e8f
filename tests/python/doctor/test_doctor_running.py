"""The doctor finds jobs that are held, leases that end, and workers that are gone."""

from __future__ import annotations

from datetime import timedelta

from support.database import Connect, Connection, expire
from support.doctor import NOW, finding, findings
from support.threads import eventually

from pgq import WorkerQueue
from pgq.testing import Clock


def test_a_job_that_a_frozen_worker_holds(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """Its transaction has the row locked; when the session is ended, the job can be rescued."""
    queue.enqueue("k")
    (job,) = queue.claim(worker="w")
    expire(conn)
    assert findings(conn, "held-job", rescue=NOW) == []
    frozen = connect(autocommit=False)
    WorkerQueue(frozen).hold(job)
    assert findings(conn, "held-job") == []
    found = finding(conn, "held-job", rescue=NOW)
    pid = frozen.info.backend_pid
    assert found.severity == "error"
    assert f'job {job.id} of kind "k" is held by process {pid}' in found.title
    assert (found.details["pid"], found.details["worker"]) == (pid, "w")
    assert "pgq_hold" in found.details["query"]
    assert f"SELECT pg_terminate_backend({pid});" in found.remedy
    conn.execute("SELECT pg_terminate_backend(%s)", [pid])
    eventually(lambda: not findings(conn, "held-job", rescue=NOW))


def test_a_packed_batch_that_a_frozen_worker_holds(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """The batch is one row, which a completion locks."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(10))
    conn.execute("SELECT pgq_claim_batch(worker => 'w', max_jobs => 10)")
    expire(conn)
    frozen = connect(autocommit=False)
    row = frozen.execute("SELECT ids[1], token FROM pgq_running_batch FOR UPDATE").fetchone()
    assert row is not None
    assert finding(conn, "held-job", rescue=NOW).details["id"] == row[0]


def test_a_lease_that_is_about_to_run_out(conn: Connection, queue: WorkerQueue, clock: Clock) -> None:
    """Workers that live extend it long before."""
    queue.enqueue("k")
    queue.enqueue("l")
    job, _ = queue.claim(max_jobs=2, lease="5 minutes", worker="w")
    clock.tick(timedelta(minutes=4))
    assert findings(conn, "lease-ending") == []
    clock.tick(timedelta(seconds=45))
    found = finding(conn, "lease-ending")
    assert found.title == ('worker "w" loses 2 jobs of queue "default" in 15 seconds, unless it extends the lease')
    queue.extend(job, "5 minutes")
    assert finding(conn, "lease-ending").details["jobs"] == 1
    clock.tick(timedelta(minutes=1))
    assert findings(conn, "lease-ending") == []


def test_a_worker_that_is_gone(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """It has not said that it stops, and may hold jobs."""
    session = connect()
    worker = WorkerQueue(session)
    worker.register("w", ["default"], "there", 7)
    queue.enqueue("k")
    worker.claim(worker="w")
    queue.enqueue("l")
    queue.claim(worker="never registered")
    assert findings(conn, "worker-gone") == []
    session.close()
    (found,) = eventually(lambda: findings(conn, "worker-gone"))
    assert found.title == 'worker "w" on there is gone, and held 1 job'
    assert (found.details["host"], found.details["pid"], found.details["running"]) == ("there", 7, 1)


def test_a_worker_that_has_said_that_it_stops_is_not_missed(conn: Connection, connect: Connect) -> None:
    """It leaves nothing behind."""
    session = connect()
    WorkerQueue(session).register("w", ["default"])
    WorkerQueue(session).unregister("w")
    session.close()
    assert findings(conn, "worker-gone") == []
