"""The errors of jobs: what they cost, and that they stay with their jobs beside other sessions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from random import Random

import psycopg
import pytest
from support.database import Connect, Connection, expire, one, waits_for_lock
from support.errors import astray
from support.threads import eventually

from pgq import Job, Queue, Views, WorkerQueue

MANY = 20_000


def fail(queue: WorkerQueue, *errors: str) -> int:
    """Let the next job fail, once with each error, ripe again at once; return its id."""
    for error in errors:
        (job,) = queue.claim()
        assert queue.fail(job, error, retry_in="0").outcome == "retry"
    return job.id


def errors(conn: Connection, job: int) -> list[str]:
    """Return the errors of a job, newest first."""
    return [error["error"] for error in Views(conn).job(job)["errors"]]


def written(queue: WorkerQueue, error: str) -> int:
    """Return how many bytes of WAL the server writes while the next job fails, also for other sessions."""
    before = one(queue.conn, "SELECT pg_current_wal_insert_lsn()")
    fail(queue, error)
    return int(one(queue.conn, "SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", before))


def test_ten_errors_write_no_more_than_one(queue: WorkerQueue) -> None:
    """An attempt writes its own error, and not those of earlier attempts."""
    random = Random(1)
    cost = {}
    for kept in (1, 10):
        found = []
        for _ in range(5):
            queue.enqueue("k", max_retries=99)
            texts = ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=4000)) for _ in range(kept + 1)]
            fail(queue, *texts[:-1])
            found.append(written(queue, texts[-1]))
            queue.complete(queue.claim()[0])
        # Other sessions of the server write now and then, and pages are written in full after a checkpoint.
        cost[kept] = min(found)
    assert cost[10] < 1.5 * cost[1] < 15_000


def test_a_job_without_errors_is_not_looked_up_among_them(connect: Connect, queue: WorkerQueue) -> None:
    """Each step of its life succeeds while the table of the errors is locked."""
    conn, other = connect(), queue.conn
    other.execute("SET lock_timeout = '100ms'")
    queue.enqueue_many({"kind": "k", "args": n} for n in range(8))
    with conn.transaction():
        conn.execute("LOCK TABLE pgq_error")
        a, b, c, *others = queue.claim(max_jobs=5)
        queue.extend(a)
        queue.hold(a)
        queue.complete(a)
        queue.complete(b, {"kept": True})
        queue.release(c)
        assert len(queue.complete_many(others)) == 2
        other.execute(
            "SELECT pgq_claim_batch(max_jobs => 0, done_ids => ids, done_tokens => array_fill(token, ARRAY[3])) "
            "FROM pgq_claim_batch(max_jobs => 3)"
        )
        (failing,) = queue.claim()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            queue.fail(failing)


def test_the_view_looks_up_errors_only_where_there_are_any(queue: WorkerQueue) -> None:
    """A list of thousands of jobs costs one look-up for each job that has failed."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(20))
    fail(queue, "once")
    with queue.conn.transaction():
        assert one(queue.conn, "SELECT count(*) FROM pgq_jobs WHERE errors = '[]'") == 19
        looks = "SELECT idx_scan + seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'pgq_error'"
        assert one(queue.conn, looks) == 1


def test_several_jobs_that_merge_at_once_hand_over_all_their_errors(
    conn: Connection, connect: Connect, queue: WorkerQueue, pool: ThreadPoolExecutor
) -> None:
    """The second one waits for the first, and sees what that has handed over."""
    running = []
    for n in range(2):
        queue.enqueue("k", max_retries=9)
        fail(queue, f"before {n}")
        running += queue.claim()
    twin = queue.enqueue("k", max_retries=9)
    fail(queue, "twin")
    first, second = connect(), connect()
    with first.transaction():
        assert WorkerQueue(first).fail(running[0], "after 0").outcome == "merged"
        future = pool.submit(WorkerQueue(second).fail, running[1], "after 1")
        eventually(lambda: waits_for_lock(conn, second))
    assert future.result(30).outcome == "merged"
    assert errors(conn, twin.id) == ["after 1", "after 0", "twin", "before 1", "before 0"]
    assert astray(conn) == []


@pytest.mark.parametrize("commits", [True, False])
def test_a_job_merges_with_errors_into_one_that_goes_back_at_the_same_time(
    conn: Connection, connect: Connect, queue: WorkerQueue, pool: ThreadPoolExecutor, commits: bool
) -> None:
    """It waits for whether the other one waits, and then either takes its errors there or keeps them."""
    running = []
    for n in range(2):
        queue.enqueue("k", max_retries=9)
        fail(queue, f"before {n}")
        running += queue.claim()
    first, second = connect(), connect()
    with first.transaction(force_rollback=not commits):
        assert WorkerQueue(first).fail(running[0], "after 0").outcome == "retry"
        future = pool.submit(WorkerQueue(second).fail, running[1], "after 1")
        eventually(lambda: waits_for_lock(conn, second))
    assert future.result(30).outcome == ("merged" if commits else "retry")
    if commits:
        assert errors(conn, running[0].id) == ["after 1", "after 0", "before 1", "before 0"]
    else:
        assert errors(conn, running[0].id) == ["before 0"]
        assert errors(conn, running[1].id) == ["after 1", "before 1"]
    assert astray(conn) == []


def test_a_rescue_that_gives_up_takes_its_error_back(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """A producer holds the twin, so the job is put off; its errors stay as they are."""
    queue.enqueue("k", max_retries=9)
    fail(queue, "before")
    (job,) = queue.claim()
    expire(conn, job.id)
    producer = connect()
    with producer.transaction():
        Queue(producer).enqueue("k")
        WorkerQueue(connect()).claim(max_jobs=0)
        assert one(conn, "SELECT count(*) FROM pgq_running") == 1
        assert errors(conn, job.id) == ["before"]
        assert astray(conn) == []


def test_a_caller_in_repeatable_read_sees_the_errors_of_its_job(
    conn: Connection, connect: Connect, queue: WorkerQueue
) -> None:
    """Where another session has changed the twin meanwhile, the call is refused, and nothing is astray."""
    names = [f"e{n}" for n in range(11)]
    queue.enqueue("k", max_retries=99)
    fail(queue, *names)
    (job,) = queue.claim()
    caller = connect()
    caller.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with caller.transaction():
        assert WorkerQueue(caller).fail(job, "e11", retry_in="0").outcome == "retry"
    assert errors(conn, job.id) == [f"e{n}" for n in range(11, 1, -1)]

    (job,) = queue.claim()
    queue.enqueue("k", max_retries=99)
    caller.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pgq_error")
    (twin,) = queue.claim()
    queue.fail(twin, "meanwhile", retry_in="0")
    with pytest.raises(psycopg.errors.SerializationFailure):
        WorkerQueue(caller).fail(job, "e12")
    caller.execute("ROLLBACK")
    assert errors(conn, twin.id) == ["meanwhile"]
    assert astray(conn) == []
    with caller.transaction():
        WorkerQueue(caller).complete(job)
    assert errors(conn, twin.id) == ["meanwhile"]
    assert astray(conn) == []


@pytest.mark.parametrize("history", ["ANALYZE", "VACUUM FULL", "VACUUM ANALYZE"])
def test_errors_are_looked_up_one_by_one(queue: WorkerQueue, history: str) -> None:
    """By plans that were made while there were few, whatever the statistics say."""
    conn = queue.conn
    conn.execute("ALTER TABLE pgq_error SET (autovacuum_enabled = off)")
    queue.enqueue("k")
    fail(queue, "first")
    queue.complete(queue.claim()[0])
    conn.execute(f"{history} pgq_error".encode())

    def life(n: int) -> None:
        queue.enqueue_many({"kind": "k", "args": [n, m], "max_retries": 99} for m in range(4))
        ids = [fail(queue, "before") for _ in range(4)]
        conn.execute("UPDATE pgq_error SET number = number + 9 WHERE id = ANY (%s)", [ids])
        conn.execute("UPDATE pgq_waiting SET newest_error = newest_error + 9 WHERE id = ANY (%s)", [ids])
        conn.execute("UPDATE pgq_waiting SET ripe_at = now() - interval '1 minute' + id * interval '1 ms'")
        merged, failed, declined, done = queue.claim(max_jobs=4)
        queue.enqueue("k", merged.args)
        fail(queue, "twin")
        queue.fail(merged, "after")
        queue.fail(failed, "after", retry=False)
        queue.decline(declined)
        conn.execute("UPDATE pgq_waiting SET ripe_at = now()")
        several: list[Job] = [done, *queue.claim(max_jobs=2)]
        assert len(queue.complete_many(several)) == 3
        assert queue.purge("0 s") == 1

    for n in range(2):
        life(n)
    conn.execute(
        "INSERT INTO pgq_error (id, number, attempt, at) SELECT n, e, e, now() "
        "FROM generate_series(1000001, 1000000 + %s) AS n, generate_series(1, 10) AS e",
        [MANY // 10],
    )
    with conn.transaction():
        entries = (
            "SELECT (SELECT seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'pgq_error') "
            "+ (SELECT pg_stat_get_xact_tuples_returned('pgq_error_pkey'::regclass))"
        )
        life(2)
        assert one(conn, entries) < 500
    assert one(conn, "SELECT count(*) FROM pgq_error") == MANY
