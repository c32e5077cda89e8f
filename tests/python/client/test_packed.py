"""Packed batches and two sessions: which call waits for which, and what it finds after the wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from support.database import Connect, Connection, expire, one, waits_for_lock
from support.threads import Thread, eventually

from pgq import WorkerQueue

JOBS = 12
Pair = tuple[list[int], int]


@pytest.fixture
def batch(conn: Connection) -> Pair:
    """The ids and the token of a packed batch."""
    return claim(conn)


def claim(conn: Connection, queue: str = "default", worker: str | None = "w") -> Pair:
    """Enqueue jobs, and claim them as one packed batch."""
    WorkerQueue(conn).enqueue_many([{"kind": "k", "queue": queue, "args": n} for n in range(JOBS)])
    row = conn.execute("SELECT ids, token FROM pgq_claim_batch(ARRAY[%s], worker => %s)", [queue, worker]).fetchone()
    assert row is not None
    assert packed(conn) >= JOBS
    return row


def packed(conn: Connection) -> int:
    """Return how many jobs are packed."""
    return int(one(conn, "SELECT count(*) FROM _pgq_packed"))


def running(conn: Connection) -> list[int]:
    """Return the ids of all running jobs."""
    return [row[0] for row in conn.execute("SELECT id FROM pgq_jobs WHERE state = 'running' ORDER BY id")]


def complete(conn: Connection, ids: list[int], *tokens: int) -> set[int]:
    """Complete jobs, all under one token or each under its own."""
    of_each = list(tokens) * (len(ids) // len(tokens))
    return {row[0] for row in conn.execute("SELECT pgq_complete_many(%s, %s::bigint[])", [ids, of_each])}


def when_it_waits(
    watch: Connection, conn: Connection, call: Callable[..., Any], *args: Any, let_go: Callable[[], None]
) -> Any:
    """Make a call in the session of ``conn`` that waits for another one, which then lets go; return its result."""
    thread = Thread(call, conn, *args)
    eventually(lambda: waits_for_lock(watch, conn), "the call waits")
    let_go()
    return thread.result()


def rescue(connect: Connect) -> None:
    """Make the first claim of a new session, which rescues."""
    conn = connect()
    conn.execute("SET lock_timeout = '1s'")
    conn.execute("SELECT pgq_claim('{none}')")


def test_two_sessions_complete_parts_of_a_batch(conn: Connection, connect: Connect, batch: Pair) -> None:
    """The second one waits, and ends those that the first one has left; the last one removes the batch."""
    ids, token = batch
    a, b = connect(autocommit=False), connect()
    assert complete(a, ids[:5], token) == set(ids[:5])
    assert when_it_waits(conn, b, complete, ids[3:8], token, let_go=a.commit) == set(ids[5:8])
    assert running(b) == ids[8:]
    assert complete(b, ids, token) == set(ids[8:])
    assert one(b, "SELECT count(*) FROM pgq_running_batch") == 0


def test_a_whole_batch_is_completed_after_a_part_of_it(conn: Connection, connect: Connect, batch: Pair) -> None:
    """The shortcut for a whole batch does not end jobs twice."""
    ids, token = batch
    a, b = connect(autocommit=False), connect()
    assert complete(a, ids[:1], token) == set(ids[:1])
    assert when_it_waits(conn, b, complete, ids, token, let_go=a.commit) == set(ids[1:])
    assert running(b) == []


@pytest.mark.parametrize("commits", [True, False])
def test_a_completion_meets_a_batch_that_is_just_unpacked(
    conn: Connection, connect: Connect, batch: Pair, commits: bool
) -> None:
    """It waits, and then finds the jobs in their rows, or in the batch if that was rolled back."""
    ids, token = batch
    a, b = connect(autocommit=False), connect()
    a.execute("SELECT pgq_fail(%s, %s)", [ids[2], token])
    let_go = a.commit if commits else a.rollback
    assert when_it_waits(conn, b, complete, ids, token, let_go=let_go) == set(ids) - ({ids[2]} if commits else set())
    assert running(b) == []


@pytest.mark.parametrize(
    "call", ["pgq_fail(%s, %s)", "pgq_hold(%s, %s)", "pgq_complete(%s, %s, '1')", "pgq_release(%s, %s)"]
)
def test_two_sessions_take_jobs_of_one_batch(conn: Connection, connect: Connect, batch: Pair, call: str) -> None:
    """The second one waits until the first one has unpacked the batch, and finds the row of its job."""
    ids, token = batch
    a, b = connect(autocommit=False), connect()
    a.execute("SELECT pgq_fail(%s, %s)", [ids[2], token])

    def take(conn: Connection) -> None:
        conn.execute(f"SELECT {call}".encode(), [ids[3], token])

    when_it_waits(conn, b, take, let_go=a.commit)
    assert packed(b) == 0
    with pytest.raises(psycopg.Error, match="is not held"):
        b.execute("SELECT pgq_fail(%s, %s)", [ids[2], token])


def test_jobs_of_two_batches_are_completed_in_one_order(connect: Connect, conn: Connection) -> None:
    """A call waits for the batch with the smaller token before it locks the other, whatever the order of its ids is."""
    (first, one_token), (second, two_token) = claim(conn, "one"), claim(conn, "two")
    a, b = connect(autocommit=False), connect()
    complete(a, first[:1], one_token)

    def let_go() -> None:
        assert complete(a, second[:1], two_token) == set(second[:1])
        a.commit()

    both = [second[1], first[1]]
    assert when_it_waits(conn, b, complete, both, two_token, one_token, let_go=let_go) == set(both)


def test_a_held_job_keeps_its_batch_from_the_rescue(connect: Connect, conn: Connection, batch: Pair) -> None:
    """Extending, cancelling, rescuing and looking for requests do not wait; the holder completes its job."""
    ids, token = batch
    expire(conn)
    holder = connect(autocommit=False)
    holder.execute("SELECT pgq_hold(%s, %s)", [ids[0], token])
    conn.execute("SET lock_timeout = '1s'")
    queue = WorkerQueue(conn)
    rescue(connect)
    assert one(conn, "SELECT pgq_extend(%s, %s)", ids[1], token) < one(conn, "SELECT now()")
    assert queue.cancel(ids[2]) == "requested"
    requested = "SELECT pgq_cancel_requested(%s, array_fill(%s::bigint, ARRAY[%s]))"
    assert one(conn, requested, ids, token, JOBS) == ids[2]
    assert queue.remaining().running
    assert running(conn) == ids
    holder.execute("SELECT pgq_complete(%s, %s)", [ids[0], token])
    holder.commit()
    rescue(connect)
    assert one(conn, "SELECT count(*) FROM pgq_jobs WHERE losses = 1") == JOBS - 1
    assert one(conn, "SELECT state FROM pgq_jobs WHERE id = %s", ids[2]) == "cancelled"


def test_a_batch_that_is_being_completed_is_not_rescued(connect: Connect, conn: Connection, batch: Pair) -> None:
    """A transaction that has completed a part keeps the whole batch until its end, however late."""
    ids, token = batch
    expire(conn)
    a = connect(autocommit=False)
    complete(a, ids[:2], token)
    rescue(connect)
    assert running(conn) == ids
    a.commit()
    rescue(connect)
    assert one(conn, "SELECT count(*) FROM pgq_jobs WHERE state = 'waiting' AND losses = 1") == JOBS - 2


def test_a_batch_is_lost_with_the_other_jobs_of_its_worker(conn: Connection, connect: Connect) -> None:
    """Also a batch whose lease ends later is unpacked, and its jobs are marked."""
    ids, _ = claim(conn, "one", "w")
    others, _ = claim(conn, "two", "w")
    strangers, _ = claim(conn, "three", "v")
    expire(conn, *ids)
    rescue(connect)
    marked = [row[0] for row in conn.execute("SELECT id FROM _pgq_running WHERE losses = -1 ORDER BY id")]
    assert marked == others
    assert packed(conn) == len(strangers)


def test_a_repeatable_read_transaction_completes_a_batch(connect: Connect, batch: Pair) -> None:
    """A change that was rolled back does not disturb it."""
    ids, token = batch
    a, b = connect(autocommit=False), connect()
    a.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    assert running(a) == ids
    with b.transaction(force_rollback=True):
        b.execute("SELECT pgq_fail(%s, %s)", [ids[2], token])
    assert complete(a, ids, token) == set(ids)
    a.commit()
    assert running(b) == []


@pytest.mark.parametrize("call", ["pgq_fail(%s, %s)", "pgq_complete(%s, %s)", "pgq_extend(%s, %s, '1 hour')"])
def test_a_repeatable_read_transaction_fails_after_a_change(connect: Connect, batch: Pair, call: str) -> None:
    """Whatever has changed the batch since its snapshot, it fails with 40001, and can try again."""
    ids, token = batch
    a, b = connect(autocommit=False), connect()
    a.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    assert running(a) == ids
    b.execute(f"SELECT {call}".encode(), [ids[2], token])
    with pytest.raises(psycopg.errors.SerializationFailure):
        complete(a, ids[3:], token)
    a.rollback()
    assert complete(a, ids[3:], token) == set(ids[3:])


def test_a_claim_that_rolls_back_leaves_no_batch(connect: Connect, conn: Connection, batch: Pair) -> None:
    """The jobs wait as before, and those of the done batch run on."""
    ids, token = batch
    WorkerQueue(conn).enqueue_many([{"kind": "later", "args": n} for n in range(JOBS)])
    a = connect(autocommit=False)
    row = a.execute(
        "SELECT lost, cardinality(ids) FROM pgq_claim_batch(done_ids => %s, done_tokens => array_fill(%s, ARRAY[%s]))",
        [ids, token, JOBS],
    ).fetchone()
    assert row == ([], JOBS)
    a.rollback()
    assert running(conn) == ids
    assert one(conn, "SELECT count(*) FROM pgq_jobs WHERE state = 'waiting' AND attempt = 0") == JOBS


def test_many_sessions_settle_the_jobs_of_many_batches(
    conn: Connection, connect: Connect, pool: ThreadPoolExecutor
) -> None:
    """They complete, fail and release jobs at once, and each job ends or waits once."""
    batches = [claim(conn, f"q{n}") for n in range(4)]
    sessions = [connect() for _ in range(8)]

    def settle_every_other(session: int) -> None:
        ids, token = batches[session // 2]
        for n in range(session % 2, JOBS, 2):
            verb = ("pgq_complete(%s, %s)", "pgq_release(%s, %s)", "pgq_fail(%s, %s, retry_in => '1 h')")[n % 3]
            sessions[session].execute(f"SELECT {verb}".encode(), [ids[n], token])

    list(pool.map(settle_every_other, range(len(sessions))))
    assert one(conn, "SELECT count(*) FROM pgq_jobs WHERE state = 'waiting'") == 4 * JOBS * 2 // 3
    assert running(conn) == []


def test_a_stale_token_unpacks_nothing(conn: Connection, batch: Pair) -> None:
    """Only a call that finds its job unpacks the batch."""
    ids, token = batch
    for pair in ((ids[0], token + 1), (0, token)):
        with pytest.raises(psycopg.Error, match="is not held"):
            conn.execute("SELECT pgq_fail(%s, %s)", pair)
    assert packed(conn) == JOBS
