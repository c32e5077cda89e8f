"""Concurrent claims: no job is claimed twice or before it is committed, and a rollback loses none."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from support.database import Connect, Connection, flush, jobs, one

from pgq import NewJob, Queue, WorkerQueue


def test_two_open_claims_share_no_job(connect: Connect, queue: Queue) -> None:
    """Two workers claim in open transactions: neither waits, and no job goes to both."""
    ids = [job.id for job in queue.enqueue_many([{"kind": "k", "args": n} for n in range(4)])]
    a, b = connect(), connect()
    b.execute("SET lock_timeout = '2s'")
    with a.transaction(), b.transaction():
        first, second = WorkerQueue(a).claim(max_jobs=2), WorkerQueue(b).claim(max_jobs=4)
    assert [job.id for job in first] == ids[:2]
    assert [job.id for job in second] == ids[2:]
    # One token for each claim.
    assert [len({job.token for job in jobs}) for jobs in (first, second, first + second)] == [1, 1, 2]


def test_eight_workers_drain_a_queue_and_run_no_job_twice(
    conn: Connection, connect: Connect, queue: Queue, pool: ThreadPoolExecutor
) -> None:
    """Each of 2,000 jobs is claimed once, and the worker that claimed it can complete it."""
    ids = [job.id for job in queue.enqueue_many([{"kind": "k", "args": n} for n in range(2000)])]
    start = threading.Barrier(8)

    def drain(worker: WorkerQueue) -> list[int]:
        mine: list[int] = []
        start.wait(30)
        while batch := worker.claim(max_jobs=7):
            assert worker.complete_many(batch) == {job.id for job in batch}
            mine += [job.id for job in batch]
            assert len(mine) <= 2000, "jobs are claimed again"
        return mine

    futures = [pool.submit(drain, WorkerQueue(connect())) for _ in range(8)]
    claimed = Counter(job for future in futures for job in future.result(60))
    assert claimed == Counter(ids)
    assert jobs(conn) == []


def test_a_job_is_visible_only_after_its_transaction_commits(
    conn: Connection, connect: Connect, queue: WorkerQueue
) -> None:
    """Until then no other session sees or claims it."""
    producer = connect()
    with producer.transaction():
        enqueued = Queue(producer).enqueue("k")
        assert queue.claim() == []
        assert jobs(conn) == []
    assert [job.id for job in queue.claim()] == [enqueued.id]


def test_a_job_whose_transaction_rolls_back_never_existed(
    conn: Connection, connect: Connect, queue: WorkerQueue
) -> None:
    """It can neither be claimed nor be the twin of a later job."""
    producer = connect()
    with producer.transaction(force_rollback=True):
        Queue(producer).enqueue("k")
        Queue(producer).enqueue_many([{"kind": "l"}])
    assert jobs(conn) == []
    assert queue.enqueue("k").created
    assert len(queue.claim(max_jobs=10)) == 1


def test_a_claim_that_rolls_back_releases_its_job_at_once(
    conn: Connection, connect: Connect, queue: WorkerQueue
) -> None:
    """The job is ripe again, and the attempt does not count."""
    enqueued = queue.enqueue("k")
    worker = connect()
    with worker.transaction(force_rollback=True):
        assert [job.id for job in WorkerQueue(worker).claim()] == [enqueued.id]
        assert queue.claim() == []
    assert jobs(conn) == [(enqueued.id, "waiting", 0)]
    assert [(job.id, job.attempt) for job in queue.claim()] == [(enqueued.id, 1)]


def test_a_killed_session_releases_what_it_claimed_in_an_open_transaction(
    conn: Connection, connect: Connect, queue: WorkerQueue
) -> None:
    """A worker that claims in the transaction that does the work loses nothing in a crash."""
    enqueued = queue.enqueue("k")
    worker = connect()
    worker.autocommit = False
    assert WorkerQueue(worker).claim()
    assert one(conn, "SELECT pg_terminate_backend(%s, 5000)", worker.info.backend_pid)
    assert [(job.id, job.attempt) for job in queue.claim()] == [(enqueued.id, 1)]


def usage(conn: Connection) -> dict[str, int]:
    """Return the sequential scans of the tables and the entries read from each index so far."""
    flush(conn)
    rows = conn.execute(
        "SELECT relname::text, seq_scan FROM pg_stat_user_tables WHERE relname IN ('pgq_waiting', 'pgq_running') "
        "UNION ALL SELECT indexrelname, idx_tup_read FROM pg_stat_user_indexes "
        "WHERE relname IN ('pgq_waiting', 'pgq_running')"
    )
    return dict(row for row in rows)


def test_the_cost_of_a_claim_does_not_depend_on_the_backlog(conn: Connection, queue: WorkerQueue) -> None:
    """A claim finds 10 of 10,000 ripe jobs, beside 10,000 that are not ripe, and does not read the others."""
    jobs: list[NewJob] = [{"kind": "k", "args": n} for n in range(10_000)]
    jobs += [{"kind": "later", "args": n, "delay": "1 day", "priority": n % 10} for n in range(10_000)]
    queue.enqueue_many(jobs)
    before = usage(conn)
    assert len(queue.claim(max_jobs=10)) == 10
    after = usage(conn)
    read = {name: after[name] - before[name] for name in after}
    assert read["pgq_waiting"] == read["pgq_running"] == 0
    assert 0 < max(read.values()) < 100, read


def test_the_first_call_of_a_session_may_take_no_job(connect: Connect) -> None:
    """It may come only to settle."""
    row = connect().execute("SELECT token, ids FROM pgq_claim_batch(max_jobs => 0)").fetchone()
    assert row == (None, [])
