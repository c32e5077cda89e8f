"""Merging beside other sessions: a job that goes back to waiting, its twin, and producers and claims that use it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest
from support.database import Connect, Connection, jobs, waits_for_lock
from support.threads import eventually

from pgq import Job, NewJob, Queue, WorkerQueue

Back = Callable[[WorkerQueue, Job], str]


def fail(queue: WorkerQueue, job: Job) -> str:
    """Fail the job, ripe again at once."""
    return queue.fail(job, "again", retry_in="0").outcome


def retry(queue: WorkerQueue, job: Job) -> str:
    """Retry the dead job by hand."""
    return queue.retry(job.id)


BACK = pytest.mark.parametrize("back", [fail, retry])


def lost(queue: WorkerQueue, back: Back) -> Job:
    """Return a job that runs, or is dead if it is to be retried by hand."""
    queue.enqueue("k", max_retries=0 if back is retry else 9)
    (job,) = queue.claim()
    if back is retry:
        assert queue.fail(job, "first").outcome == "dead"
    return job


@BACK
def test_a_job_whose_twin_is_claimed_meanwhile_waits_itself(
    conn: Connection, connect: Connect, queue: WorkerQueue, pool: ThreadPoolExecutor, back: Back
) -> None:
    """Its insert has met the twin, but a worker claims the twin before the job has merged into it."""
    job = lost(queue, back)
    twin = queue.enqueue("k")
    a, b = connect(), connect()
    with a.transaction():
        # A row lock lets the insert pass and stops the update.
        a.execute("SELECT FROM pgq_waiting FOR UPDATE")
        future = pool.submit(back, WorkerQueue(b), job)
        eventually(lambda: waits_for_lock(conn, b))
        assert [claimed.id for claimed in WorkerQueue(a).claim()] == [twin.id]
    assert future.result(30) == "retry"
    assert jobs(conn) == [(job.id, "waiting", 0 if back is retry else 1), (twin.id, "running", 1)]


@BACK
def test_a_merge_does_not_wait_for_a_duplicate_that_is_not_committed(
    conn: Connection, connect: Connect, queue: WorkerQueue, back: Back
) -> None:
    """The duplicate's lock outlives the merge: no claim takes the twin before its transaction ends."""
    job = lost(queue, back)
    twin = queue.enqueue("k")
    producer = connect()
    conn.execute("SET lock_timeout = '2s'")
    with producer.transaction():
        assert not Queue(producer).enqueue("k").created
        assert back(queue, job) == "merged"
        assert queue.claim() == []
    assert [(claimed.id, claimed.attempt) for claimed in queue.claim()] == [(twin.id, 1 if back is retry else 2)]


@BACK
@pytest.mark.parametrize("commits", [True, False])
def test_a_merge_waits_for_a_replace_that_is_not_committed(
    conn: Connection, connect: Connect, queue: WorkerQueue, pool: ThreadPoolExecutor, back: Back, commits: bool
) -> None:
    """Neither change of the twin is lost."""
    job = lost(queue, back)
    twin = queue.enqueue("k", priority=5)
    producer, other = connect(), connect()
    with producer.transaction(force_rollback=not commits):
        Queue(producer).enqueue("k", priority=1, on_duplicate="replace")
        future = pool.submit(back, WorkerQueue(other), job)
        eventually(lambda: waits_for_lock(conn, other))
    assert future.result(30) == "merged"
    ((job_id, priority, errors),) = conn.execute("SELECT id, priority, jsonb_array_length(errors) FROM pgq_jobs")
    assert (job_id, priority, errors) == (twin.id, 1 if commits else 5, 1)


def test_a_job_with_nothing_to_tell_does_not_lock_its_twin(connect: Connect, queue: WorkerQueue) -> None:
    """A job that is released in its first attempt merges, and the twin can be claimed and changed at once."""
    job = lost(queue, fail)
    twin = queue.enqueue("k")
    other = connect()
    with queue.conn.transaction():
        assert queue.release(job) == "merged"
        assert [claimed.id for claimed in WorkerQueue(other).claim()] == [twin.id]


Keys = Callable[[str, str], list[str]]


@pytest.fixture
def keys(conn: Connection) -> Keys:
    """Return a function that finds a dedup key for each of the letters a, b, c."""

    def find(by_signature: str, by_hash: str) -> list[str]:
        """Return keys whose signatures and whose hashes, the order of inserts, have the order of these letters."""
        rows = conn.execute(
            "SELECT n::text, _pgq_signature('default', 'k', '{}', n::text)::text, hashtextextended(n::text, 0) "
            "FROM generate_series(1, 40) AS n"
        ).fetchall()
        for chosen in permutations(rows, 3):
            key, signature, place = (dict(zip("abc", column, strict=True)) for column in zip(*chosen, strict=True))
            orders = ["".join(sorted("abc", key=column.__getitem__)) for column in (signature, place)]
            if orders == [by_signature, by_hash]:
                return list(key.values())
        raise AssertionError

    return find


@pytest.mark.parametrize(
    ("by_signature", "by_hash", "twins", "duplicates"),
    [
        # In an order of ids the worker inserts b, then waits for a; the producer has inserted a, then waits for b.
        ("abc", "acb", "", "acb"),
        # A worker that merges into a at once then waits for b; the producer has inserted b, then waits for a.
        ("cab", "abc", "ac", "bca"),
        # In the order of inserts the worker merges into b, then waits for a; the producer has replaced a, then waits.
        ("acb", "bca", "acb", "acb"),
    ],
    ids=["inserts", "an insert and an update", "updates"],
)
def test_reconcile_and_a_bulk_enqueue_do_not_deadlock(
    conn: Connection, connect: Connect, pool: ThreadPoolExecutor, keys: Keys,
    by_signature: str, by_hash: str, twins: str, duplicates: str,
) -> None:  # fmt: skip
    """A worker gives back a and b; a producer enqueues both and is stopped midway, at c."""
    key = dict(zip("abc", keys(by_signature, by_hash), strict=True))

    def enqueue(queue: WorkerQueue, letters: str) -> int:
        duplicates: list[NewJob] = [
            {"kind": "k", "dedup_key": key[letter], "on_duplicate": "replace"} for letter in letters
        ]
        return len(queue.enqueue_many(duplicates))

    blocker, producer, worker = connect(), WorkerQueue(connect()), WorkerQueue(connect())
    for session in (producer, worker):
        session.conn.execute("SET deadlock_timeout = '100ms'")
    worker.register("w")
    enqueue(worker, "b")
    enqueue(worker, "a")
    for job in worker.claim(max_jobs=2):  # with an error, which each hands over to its twin
        worker.fail(job, "first", retry_in="0")
    assert len(worker.claim(max_jobs=2, worker="w")) == 2
    for letter in twins:
        enqueue(producer, letter)

    with blocker.transaction():
        if "c" in twins:
            blocker.execute("SELECT FROM pgq_waiting WHERE dedup_key = %s FOR UPDATE", [key["c"]])
        else:
            enqueue(WorkerQueue(blocker), "c")
        enqueued = pool.submit(enqueue, producer, duplicates)
        eventually(lambda: waits_for_lock(conn, producer.conn))
        reconciled = pool.submit(worker.reconcile, "w", [])
        eventually(lambda: waits_for_lock(conn, worker.conn))
    assert (enqueued.result(30), reconciled.result(30)) == (3, 2)
    waiting = conn.execute("SELECT dedup_key, attempt FROM pgq_waiting").fetchall()
    assert sorted(waiting) == sorted([(key["a"], 1), (key["b"], 1), (key["c"], 0)])
