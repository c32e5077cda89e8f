"""Packed batches whose leases have ended or whose worker is gone: what is marked, unpacked, kept and left alone."""

from __future__ import annotations

import pytest
from support.database import Connect, Connection, expire, one
from support.threads import eventually

from pgq import WorkerQueue

JOBS = 60


def claim(conn: Connection, queue: str, jobs: int = JOBS, *, beside: str | None = None) -> tuple[list[int], int]:
    """Enqueue jobs, half of them in another queue if that is given, and claim them; return their ids and token."""
    queues = [queue, beside or queue]
    WorkerQueue(conn).enqueue_many([{"kind": "k", "queue": queues[n % 2], "args": n} for n in range(jobs)])
    row = conn.execute("SELECT ids, token FROM pgq_claim_batch(%s, worker => 'w')", [list(set(queues))]).fetchone()
    assert row is not None
    return row


def packed(conn: Connection) -> int:
    """Return how many jobs are packed."""
    return int(one(conn, "SELECT count(*) FROM _pgq_packed"))


def lost(conn: Connection) -> list[int]:
    """Return the jobs that have been found lost together with others."""
    return [row[0] for row in conn.execute("SELECT id FROM _pgq_running WHERE losses < 0 ORDER BY id")]


def rescue(connect: Connect) -> None:
    """Make the first claim of a new session, which rescues."""
    connect().execute("SELECT pgq_claim('{none}')")


def leave(conn: Connection, connect: Connect, allowed: str | None = None) -> None:
    """Register the worker in a session that ends, perhaps with a role that may use one queue only."""
    session = connect()
    session.execute("SELECT pgq_register('w')")
    if allowed is not None:
        conn.execute("UPDATE pgq_worker_session SET allowed_queues = ARRAY[%s]", [allowed])
    session.close()
    eventually(lambda: one(conn, "SELECT count(*) FROM _pgq_presence") == 0, "the session has ended")


def sweep(conn: Connection, seconds: int = 0, *, is_new: bool = False) -> None:
    """Sweep the workers so many seconds from now."""
    conn.execute("SELECT _pgq_sweep_workers(pgq_now() + %s * interval '1 second', %s)", [seconds, is_new])


def test_a_single_job_is_lost_with_the_packed_jobs_of_its_worker(conn: Connection, connect: Connect) -> None:
    """They are marked, and so is the job, which goes back with its attempt not counted."""
    (single,), _ = claim(conn, "one", 1)
    others, _ = claim(conn, "two")
    expire(conn, single)
    rescue(connect)
    assert one(conn, "SELECT losses || ' ' || attempt FROM pgq_waiting WHERE id = %s", single) == "1 0"
    assert lost(conn) == others


def test_a_rescue_unpacks_no_more_batches_than_it_takes(conn: Connection, connect: Connect) -> None:
    """It takes fifty jobs, so one batch is enough; the next rescue takes the rest, and unpacks the other."""
    claim(conn, "one")
    # Under another name, or they would be lost together.
    _, token = claim(conn, "two")
    conn.execute("UPDATE pgq_running_batch SET worker = 'v' WHERE token = %s", [token])
    expire(conn)
    rescue(connect)
    assert packed(conn) == JOBS
    rescue(connect)
    assert packed(conn) == 0


def test_a_batch_that_its_worker_knows_stays_packed(conn: Connection) -> None:
    """Only a batch with a job that did not arrive is unpacked."""
    ids, token = claim(conn, "one")
    conn.execute("SELECT pgq_register('w')")
    reconciled = "SELECT pgq_reconcile('w', %s, array_fill(%s::bigint, ARRAY[%s]))"
    assert one(conn, reconciled, ids, token, JOBS) == 0
    assert packed(conn) == JOBS
    assert one(conn, reconciled, ids[1:], token, JOBS - 1) == 1
    assert packed(conn) == 0


@pytest.mark.usefixtures("grown_up")
def test_a_later_sweep_finds_the_packed_jobs_of_a_worker_that_is_gone(conn: Connection, connect: Connect) -> None:
    """The first sweep of a new session only records that the worker is gone."""
    ids, _ = claim(conn, "one")
    leave(conn, connect)
    sweep(conn, is_new=True)
    assert packed(conn) == JOBS
    sweep(conn, 2)
    assert lost(conn) == ids


@pytest.mark.usefixtures("grown_up")
def test_a_sweep_unpacks_no_batch_without_a_job_of_the_role(conn: Connection, connect: Connect) -> None:
    """A worker whose role may use one queue has not claimed those of another, whatever their worker was called."""
    ids, _ = claim(conn, "theirs", 20, beside="mine")
    claim(conn, "theirs")
    leave(conn, connect, "mine")
    sweep(conn)
    assert packed(conn) == JOBS
    mine = [row[0] for row in conn.execute("SELECT id FROM pgq_running WHERE queue = 'mine' ORDER BY id")]
    assert lost(conn) == mine
    assert set(mine) < set(ids)


@pytest.mark.usefixtures("grown_up")
def test_a_sweep_counts_and_keeps_a_batch_that_is_locked(conn: Connection, connect: Connect) -> None:
    """A single job is lost with the jobs of the batch, and the worker is remembered until they can be taken."""
    (single,), _ = claim(conn, "one", 1)
    others, token = claim(conn, "two")
    holder = connect(autocommit=False)
    holder.execute("SELECT pgq_hold(%s, %s)", [others[0], token])
    leave(conn, connect)
    sweep(conn)
    assert lost(conn) == [single]
    rescue(connect)
    assert one(conn, "SELECT losses || ' ' || attempt FROM pgq_waiting WHERE id = %s", single) == "1 0"
    sweep(conn, 20)
    assert one(conn, "SELECT count(*) FROM pgq_worker_session") == 1
    holder.rollback()
    sweep(conn, 20)
    assert lost(conn) == others
