"""How many jobs a worker claims at a time, and which of them it gives back."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from support.database import Connect, jobs, one, record, seen
from support.threads import Thread, eventually
from support.workers import MakeWorker, drain

from pgq import Handlers, Job, Queue, WorkerQueue
from pgq.job import FIELDS
from pgq.worker.batching import BatchSize
from pgq.worker.calls import MAX_BYTES
from pgq.worker.loop import Loop
from pgq.worker.settings import Timing
from pgq.worker.turn import Turn

CLAIM: tuple[Any, ...] = (["default"], 1, timedelta(minutes=1), "me", MAX_BYTES, True)


def test_the_first_batch_is_small() -> None:
    """No job has been timed yet."""
    assert BatchSize(100, MAX_BYTES).size() == 10
    assert BatchSize(3, MAX_BYTES).size() == 3


@pytest.mark.parametrize(
    ("seconds", "size"), [(0.0, 100), (0.0001, 100), (0.001, 100), (0.004, 25), (0.04, 2), (0.2, 1), (3600.0, 1)]
)
def test_a_batch_lasts_a_tenth_of_a_second(seconds: float, size: int) -> None:
    """The size stays within the limit, and is never less than one job."""
    pace = BatchSize(100, MAX_BYTES)
    pace.note(1, seconds)
    assert pace.size() == size


def test_the_batch_size_adapts_to_the_jobs() -> None:
    """One batch that is unlike the others does not affect it for long."""
    pace = BatchSize(100, MAX_BYTES)
    pace.note(10, 10.0)
    assert pace.size() == 1
    for _ in range(10):
        pace.note(10, 0.01)
    assert pace.size() > 40
    pace.note(1, 5.0)
    assert pace.size() == 1


def test_a_batch_of_large_jobs_is_what_fits() -> None:
    """The claim stops at that size anyway; a worker that asks for no more locks no more."""
    pace = BatchSize(100, 1000)
    pace.note(10, 0.0001)
    pace.note_claimed(["x" * 300 for _ in range(4)], 100)
    assert (pace.size(), pace.size(wanted=500)) == (4, 4)
    pace.note_claimed(["x" * 5000], 4)
    assert pace.size() == 1
    for _ in range(10):
        pace.note_claimed(["x" * 5], 1)
    assert pace.size() == 100


def test_a_batch_of_small_jobs_is_not_added_up() -> None:
    """A claim that returns what it was asked for has met no limit, and one of few jobs no large ones."""
    pace = BatchSize(100, 1000)
    for claimed, asked in ((["x" * 300] * 3, 3), (["x" * 5] * 3, 100), ([], 100)):
        pace.note_claimed(claimed, asked)
        assert pace.bytes is None


@pytest.mark.parametrize("transaction", [False, True])
def test_a_worker_holds_no_more_jobs_than_fit(
    queue: Queue, make_worker: MakeWorker, handlers: Handlers, transaction: bool
) -> None:
    """However many it may take, it claims what reaches batch_bytes, in order."""
    loop = make_worker(batch=100, batch_bytes=8 * 1024 * 1024).loops[0]
    held: list[int] = []
    done: list[int] = []

    @handlers.handler("k", transaction=transaction, batch=50)
    def work(given: Any, *_: Any) -> None:
        for one_ in given if isinstance(given, list) else [given]:
            done.append(int(one_.args[0]))
            held.append(int(one(queue.conn, "SELECT count(*) FROM pgq_running")))

    megabyte = "to_jsonb(ARRAY[n::text, repeat('x', 1000000)])"
    one(queue.conn, f"SELECT count(pgq_enqueue('k', {megabyte})) FROM generate_series(1, 24) AS n")
    drain(loop)
    assert done == list(range(1, 25))
    assert max(held) == 9


def test_a_worker_with_slow_jobs_leaves_the_rest_to_others(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """After the first batch it claims one job at a time."""
    running: list[int] = []

    @handlers.handler("k")
    def slow(job: Job) -> None:
        running.append(int(one(queue.conn, "SELECT count(*) FROM pgq_running")))
        time.sleep(0.06)

    queue.enqueue_many({"kind": "k", "args": n} for n in range(14))
    drain(loop)
    assert running[-4:] == [1, 1, 1, 1]


def test_a_slow_handler_releases_the_unstarted_rest_of_its_batch(
    queue: WorkerQueue, make_worker: MakeWorker, handlers: Handlers
) -> None:
    """Another worker can claim those jobs, and the attempt does not count."""
    loop = make_worker(timing=Timing(keep_unstarted=0.1)).loops[0]
    begun, go = threading.Event(), threading.Event()

    @handlers.handler("k")
    def work(job: Job) -> None:
        if job.args == 0:
            begun.set()
            assert go.wait(30)

    queue.enqueue_many({"kind": "k", "args": n} for n in range(5))
    turn = Thread(loop.turn)
    assert begun.wait(30)
    others = eventually(lambda: queue.claim(max_jobs=10))
    assert sorted(job.args for job in others) == [1, 2, 3, 4]
    assert {job.attempt for job in others} == {1}
    go.set()
    turn.result()
    drain(loop)
    assert [job[0] for job in jobs(queue.conn)] == sorted(job.id for job in others)


def test_outcomes_are_recorded_while_the_next_handler_runs(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """That takes a tenth of a second, so the jobs do not run again if the next one ends the worker."""
    begun, go = threading.Event(), threading.Event()

    @handlers.handler("k")
    def work(job: Job) -> str | None:
        if job.args == 1:
            raise ValueError("failed")
        if job.args == 3:
            begun.set()
            assert go.wait(30)
        return "kept" if job.args == 2 else None

    _done, failed, kept, slow = [job.id for job in queue.enqueue_many({"kind": "k", "args": n} for n in range(4))]
    turn = Thread(loop.turn)
    assert begun.wait(30)
    begun_at = time.monotonic()
    record = [(failed, "waiting", 1), (kept, "done", 1), (slow, "running", 1)]
    eventually(lambda: jobs(queue.conn) == record)
    # The promise is a tenth of a second; a loaded machine gets more.
    assert time.monotonic() - begun_at < 1
    go.set()
    turn.result()


def test_outcomes_are_recorded_while_a_transactional_handler_runs(queue: Queue, loop: Loop, handlers: Handlers) -> None:
    """That handler has a connection of its own."""
    handlers.handler("plain")(lambda job: None)
    handlers.handler("transactional", transaction=True)(
        lambda job, conn: eventually(lambda: len(jobs(queue.conn)) == 1) and None
    )
    queue.enqueue_many([{"kind": "plain"}, {"kind": "transactional"}])
    drain(loop)
    assert jobs(queue.conn) == []


def test_only_a_claim_that_settles_nothing_commits_asynchronously(
    queue: WorkerQueue, loop: Loop, handlers: Handlers
) -> None:
    """A transaction that completes a job or carries a handler's writes is as durable as the server."""
    conn = queue.conn
    # The first token after the installation moves the sequence to the clock, and such a claim is durable.
    queue.enqueue("first")
    assert len(queue.complete_many(queue.claim())) == 1
    record(conn, "pgq_running", "INSERT OR DELETE", "TG_OP", "current_setting('synchronous_commit')")
    conn.execute(f"ALTER DATABASE {conn.info.dbname} SET synchronous_commit = on".encode())
    handlers.handler("plain")(lambda job: None)
    handlers.handler("kept")(lambda job: "result")
    handlers.handler("transactional", transaction=True)(lambda job, conn: None)
    loop.batch_size.limit = 1
    for kind in ("plain", "plain", "kept", "plain", "transactional", "plain"):
        queue.enqueue(kind, dedup=False)
    drain(loop)
    committed = seen(conn)
    # The first claim, and the one after the transactional handler, settle nothing.
    assert [row for row in committed if row[1] == "off"] == [("INSERT", "off"), ("INSERT", "off")]
    assert committed[0] == ("INSERT", "off")
    assert [what for what, _ in committed].count("INSERT") == 6


def test_a_claim_within_a_transaction_leaves_its_commit_durable(queue: WorkerQueue, connect: Connect) -> None:
    """The transaction may have written before."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    queue.conn.execute("SET synchronous_commit = on")
    with queue.conn.transaction():
        assert Turn(queue)([], *CLAIM)[1] is not None
        assert one(queue.conn, "SHOW synchronous_commit") != "off"
    other = connect()
    other.execute("SET synchronous_commit = on")
    other.autocommit = False
    assert Turn(WorkerQueue(other))([], *CLAIM)[1] is not None
    assert one(other, "SHOW synchronous_commit") != "off"


def test_completing_and_claiming_is_one_statement(queue: WorkerQueue) -> None:
    """It returns the lost leases and claims even so, and it works without a ripe job."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(4))
    first, second, third = queue.claim(max_jobs=3)
    queue.release(second)
    turn = Turn(queue)
    lost, claim = turn([(job.id, job.token) for job in (first, second, third)], *CLAIM)
    assert lost == [second.id]
    assert claim is not None
    assert claim.ids == [second.id]
    assert turn([(second.id, claim.token)], ["none"], *CLAIM[1:]) == ([], None)
    assert [job.args for job in queue.claim(max_jobs=10)] == [3]


def test_a_job_has_all_columns_also_when_the_connection_is_gone(queue: WorkerQueue, connect: Connect) -> None:
    """What a handler reads last of its job is converted then; it is what pgq_claim returns."""
    for n in range(2):
        context, group_key = ({"a": "b"}, "g") if n else (None, None)
        queue.enqueue("k", {"n": n}, priority=n, max_retries=n, context=context, group_key=group_key)
        queue.enqueue("without", n)
    other = connect()
    claims = [Turn(WorkerQueue(other))([], ["default"], size, *CLAIM[2:])[1] for size in (1, 3)]
    other.close()
    fresh = [job for claim in claims if claim is not None for job in claim.jobs()]
    for job in fresh:
        queue.conn.execute("UPDATE pgq_running SET lease_until = %s WHERE id = %s", [job.lease_until, job.id])
        row = queue.conn.execute(
            "SELECT id, token, queue, kind, args::text, attempt, max_retries, priority, ripe_at, enqueued_at, "
            "lease_until, context::text, false, group_key, (SELECT saved::text FROM pgq_saved AS s WHERE s.id = r.id) "
            "FROM pgq_running AS r WHERE id = %s",
            [job.id],
        ).fetchone()
        assert tuple(getattr(job, name) for name in FIELDS) == row
    assert len(fresh) == 4


def test_a_job_can_be_compared_copied_and_pickled(queue: WorkerQueue) -> None:
    """A copy has the same values, and is outside of the worker."""
    queue.enqueue_many({"kind": "k", "args": {"n": n}} for n in range(2))
    claim = Turn(queue)([], *CLAIM)[1]
    assert claim is not None
    claim.runtime = None
    for job in (*claim.jobs(), *queue.claim()):
        for copied in (copy.copy(job), copy.deepcopy(job), pickle.loads(pickle.dumps(job))):
            assert copied == job
            assert hash(copied) == hash(job)
            assert [getattr(copied, name) for name in FIELDS] == [getattr(job, name) for name in FIELDS]
            assert copied.waited is None
        assert repr(job).startswith(f"Job(id={job.id}, token={job.token}, queue='default', kind='k', attempt=1, max_")
        assert job.payload not in repr(job)
        assert job != (job.id, job.token)
