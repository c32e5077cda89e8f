"""Deduplication: jobs with the same signature in several sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from support.database import Connect, Connection, jobs, one, waits_for_lock
from support.signatures import missigned
from support.threads import eventually

from pgq import Enqueued, NewJob, Queue, WorkerQueue
from pgq.new_job import OnDuplicate

Enqueue = Callable[[WorkerQueue], Enqueued]
BOTH = pytest.mark.parametrize(
    "enqueue",
    [lambda queue: queue.enqueue("k"), lambda queue: queue.enqueue_many([{"kind": "k"}])[0]],
    ids=["enqueue", "enqueue_many"],
)


@BOTH
def test_a_twin_cannot_be_claimed_until_its_duplicate_commits(
    conn: Connection, connect: Connect, queue: WorkerQueue, enqueue: Enqueue
) -> None:
    """So the run of the twin sees the writes of the duplicate's transaction. The claim does not wait."""
    first = queue.enqueue("k")
    other = queue.enqueue("other")
    producer = connect()
    conn.execute("SET lock_timeout = '2s'")
    with producer.transaction():
        assert enqueue(WorkerQueue(producer)) == Enqueued(first.id, created=False)
        assert [job.id for job in queue.claim(max_jobs=10)] == [other.id]
    assert [job.id for job in queue.claim(max_jobs=10)] == [first.id]


@BOTH
def test_a_duplicate_of_a_running_job_is_new_and_does_not_wait(
    conn: Connection, connect: Connect, queue: WorkerQueue, enqueue: Enqueue
) -> None:
    """This holds even while the handler holds its job in an open transaction."""
    running = queue.enqueue("k")
    (job,) = queue.claim()
    worker, producer = connect(), connect()
    producer.execute("SET lock_timeout = '2s'")
    with worker.transaction():
        WorkerQueue(worker).hold(job)
        enqueued = enqueue(WorkerQueue(producer))
    assert enqueued.created
    assert enqueued.id != running.id
    assert jobs(conn) == [(running.id, "running", 1), (enqueued.id, "waiting", 0)]


@BOTH
@pytest.mark.parametrize("commits", [True, False])
def test_an_enqueue_waits_for_the_open_transaction_of_its_twin(
    conn: Connection, connect: Connect, pool: ThreadPoolExecutor, enqueue: Enqueue, commits: bool
) -> None:
    """After a commit it returns the twin's id, and after a rollback it creates a job."""
    a, b = connect(), connect()
    with a.transaction(force_rollback=not commits):
        first = Queue(a).enqueue("k")
        second = pool.submit(enqueue, WorkerQueue(b))
        eventually(lambda: waits_for_lock(conn, b))
    enqueued = second.result(30)
    assert enqueued.created is not commits
    assert (enqueued.id == first.id) is commits
    assert jobs(conn) == [(enqueued.id, "waiting", 0)]


@pytest.mark.parametrize("dedup", [True, False])
@pytest.mark.parametrize("order", [1, -1], ids=["last", "first"])
def test_an_invalid_array_is_refused_without_a_wait(connect: Connect, dedup: bool, order: int) -> None:
    """All of its jobs are checked before the first is inserted that may have a twin in an open transaction."""
    a, b = connect(), connect()
    b.execute("SET lock_timeout = '2s'")
    jobs: list[NewJob] = [{"kind": "k"}, {"kind": "l", "dedup": dedup, "priority": 10}]
    with a.transaction():
        Queue(a).enqueue("k")
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="priority 10"):
            Queue(b).enqueue_many(jobs[::order])


@BOTH
@pytest.mark.parametrize("commits", [True, False])
def test_an_enqueue_whose_twin_is_being_claimed_waits_for_the_claim(
    conn: Connection, connect: Connect, queue: Queue, pool: ThreadPoolExecutor, enqueue: Enqueue, commits: bool
) -> None:
    """The job is new if the claim commits, and a duplicate if it rolls back."""
    old = queue.enqueue("k")
    a, b = connect(), connect()
    with a.transaction(force_rollback=not commits):
        assert WorkerQueue(a).claim()
        future = pool.submit(enqueue, WorkerQueue(b))
        eventually(lambda: waits_for_lock(conn, b))
    enqueued = future.result(30)
    assert enqueued.created is commits
    assert (enqueued.id != old.id) is commits


@BOTH
def test_an_enqueue_is_new_when_its_twin_is_claimed_meanwhile(
    conn: Connection, connect: Connect, queue: Queue, pool: ThreadPoolExecutor, enqueue: Enqueue
) -> None:
    """Its insert has met the twin, but a worker claims the twin before the enqueue locks it."""
    old = queue.enqueue("k")
    a, b = connect(), connect()
    with a.transaction():
        # A row lock lets the insert pass and stops what follows.
        a.execute("SELECT FROM pgq_waiting FOR UPDATE")
        future = pool.submit(enqueue, WorkerQueue(b))
        eventually(lambda: waits_for_lock(conn, b))
        assert WorkerQueue(a).claim()
    enqueued = future.result(30)
    assert enqueued.created
    assert jobs(conn) == [(old.id, "running", 1), (enqueued.id, "waiting", 0)]
    assert missigned(conn) == []


def test_a_claim_beside_a_replace_returns_the_new_arguments(
    conn: Connection, connect: Connect, pool: ThreadPoolExecutor
) -> None:
    """A claim may miss the job; then a later one returns it. No claim returns arguments replaced before it began."""
    keys, rounds = 10, 150
    producer, worker = Queue(connect()), WorkerQueue(connect())
    committed, over = 0, threading.Event()

    def replace() -> None:
        nonlocal committed
        for version in range(1, rounds + 1):
            producer.enqueue_many(
                {"kind": "k", "args": version, "dedup_key": str(key), "on_duplicate": "replace"} for key in range(keys)
            )
            committed = version
        over.set()

    def claim() -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        while True:
            last = over.is_set()
            least = committed
            batch = worker.claim(max_jobs=keys)
            seen += [(least, job.args) for job in batch]
            worker.complete_many(batch)
            if last and not batch:
                return seen

    claims, replaces = pool.submit(claim), pool.submit(replace)
    replaces.result(60)
    seen = claims.result(60)
    assert [(least, version) for least, version in seen if version < least] == []
    assert [version for _, version in seen].count(rounds) == keys
    assert jobs(conn) == []


def test_a_failure_and_an_enqueue_of_its_twin_merge_in_any_order(
    conn: Connection, connect: Connect, pool: ThreadPoolExecutor
) -> None:
    """Neither ever raises a unique violation, and at most one job waits."""
    producer, worker = Queue(connect()), WorkerQueue(connect())
    over = threading.Event()

    def enqueue() -> None:
        for n in range(400):
            with producer.conn.transaction(force_rollback=n % 3 == 0):
                producer.enqueue("k")
        over.set()

    def fail() -> set[str]:
        outcomes = set()
        while not over.is_set():
            for job in worker.claim():
                outcomes.add(worker.fail(job, "no", retry_in="0").outcome)
        return outcomes

    enqueues, fails = pool.submit(enqueue), pool.submit(fail)
    enqueues.result(60)
    assert fails.result(60) <= {"retry", "merged", "dead"}
    assert one(conn, "SELECT count(*) FROM pgq_waiting") <= 1


@pytest.mark.parametrize("policy", ["keep", "replace", "soonest"])
@pytest.mark.parametrize("waiting", [False, True], ids=["all new", "half waiting"])
def test_overlapping_bulk_enqueues_never_deadlock(
    connect: Connect, queue: Queue, pool: ThreadPoolExecutor, policy: OnDuplicate, waiting: bool
) -> None:
    """The two arrays have the same jobs in opposite orders; rows are locked in the order of their signatures."""
    producers = [WorkerQueue(connect()), WorkerQueue(connect())]
    start = threading.Barrier(2)

    def enqueue(producer: Queue, step: int) -> int:
        created = 0
        for turn in range(15):
            batch: list[NewJob] = [
                {"kind": f"k{turn}", "args": {}, "dedup_key": str(n), "on_duplicate": policy, "delay": f"{9 + step} s"}
                for n in range(100)
            ]
            if waiting:
                queue.enqueue_many({**job, "on_duplicate": "keep", "delay": "1 h"} for job in batch[::2])
            start.wait(30)
            created += sum(job.created for job in producer.enqueue_many(batch[::step]))
        return created

    futures = [pool.submit(enqueue, producer, step) for producer, step in zip(producers, (1, -1), strict=True)]
    assert sum(future.result(60) for future in futures) == 15 * (50 if waiting else 100)


def test_bulk_enqueues_of_equal_jsonb_with_different_text_do_not_deadlock(
    connect: Connect, queue: Queue, pool: ThreadPoolExecutor
) -> None:
    """Such arguments are equal for jsonb, but no twins, because their text differs."""
    third, first, second = connect(autocommit=False), connect(), connect()
    call = "SELECT count(*) FROM pgq_enqueue_many((SELECT jsonb_agg(jsonb_build_object('kind', 'k', 'args', a)) {}))"
    values = "FROM unnest(%s::jsonb[]) AS a"
    third.execute("SELECT pgq_enqueue('k', '1.00')")
    futures = [
        pool.submit(conn.execute, call.format(values).encode(), [list(order)])
        for conn, order in ((first, ("1", "1.00", "1.0")), (second, ("1.0", "1.00", "1")))
    ]
    eventually(lambda: waits_for_lock(queue.conn, first) and waits_for_lock(queue.conn, second))
    third.rollback()
    assert [future.result(30).fetchone() for future in futures] == [(3,), (3,)]
