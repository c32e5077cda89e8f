"""Long scans: all sessions together make one at a time, and one that is not made delays no claim."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.database import Connect, Connection, one
from support.heads import PAST, leave_leases, leave_past, sharing
from support.threads import eventually

from pgq import Queue, WorkerQueue

pytestmark = pytest.mark.usefixtures("rationed")

WAITING, LEASES = "pgq_waiting_claim", "pgq_running_lease"
DUE = sharing("now() - interval '1 second'", "5 minutes", "now()")
LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 'pgq_head'::regclass"


def walked(conn: Connection, index: str = WAITING) -> int:
    """Return how many entries of an index the open transaction has read."""
    return int(one(conn, "SELECT pg_stat_get_xact_tuples_returned(%s::text::regclass)", index))


def walk(connect: Connect, index: str = WAITING, kinds: list[str] | None = None) -> int:
    """Let a new session claim once, and return how many entries it has read; add the kinds of its jobs to ``kinds``."""
    conn = connect()
    with conn.transaction():
        found = WorkerQueue(conn).claim()
        if kinds is not None:
            kinds += [job.kind for job in found]
        return walked(conn, index)


@pytest.fixture(params=["1 second", "1 day"])
def scan(conn: Connection, connect: Connect, past: None, request: pytest.FixtureRequest) -> WorkerQueue:
    """A session that makes the long scans that are due, for so long, in a transaction that stays open."""
    leave_leases(connect())
    conn.execute(sharing(f"now() - interval '{request.param}'", "5 minutes", "now()"))
    queue = WorkerQueue(connect(autocommit=False))
    queue.claim()
    return queue


@pytest.mark.parametrize("index", [WAITING, LEASES])
def test_one_session_scans_at_a_time(connect: Connect, scan: WorkerQueue, index: str) -> None:
    """The others go on from the heads that are shared, and look for no expired leases."""
    assert walked(scan.conn, index) >= PAST
    assert [walk(connect, index) < 200 for _ in range(3)] == [True] * 3
    scan.conn.commit()
    assert walk(connect, index) < 200


@pytest.mark.parametrize("index", [WAITING, LEASES])
@pytest.mark.parametrize("end", [lambda conn: conn.rollback(), lambda conn: conn.close()], ids=["fails", "dies"])
def test_a_session_that_ends_without_its_scan_leaves_it_to_others(
    connect: Connect, scan: WorkerQueue, index: str, end: Callable[[Connection], None]
) -> None:
    """A claim that is cancelled, or whose session dies, keeps no lock."""
    pid = scan.conn.info.backend_pid
    end(scan.conn)
    watch, busy = connect(), "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND xact_start < now()"
    eventually(lambda: one(watch, busy, pid) == 0)
    assert walk(connect, index) >= PAST


def test_a_session_that_lives_for_one_claim_makes_a_scan_that_is_due(conn: Connection, connect: Connect) -> None:
    """Where only such sessions claim, no other one would make it."""
    conn.execute("SELECT pgq_enqueue('left', ripe_at => pgq_now() - interval '1 day')")
    conn.execute(DUE)
    kinds: list[str] = []
    walk(connect, kinds=kinds)
    assert kinds == ["left"]


def test_a_lock_that_a_session_keeps_delays_late_jobs_only(conn: Connection, connect: Connect, past: None) -> None:
    """Any role can take the lock. When it was found taken 18 delays ago, every session scans without it."""
    conn.execute("SELECT pgq_enqueue('left', ripe_at => pgq_now() - interval '1 day')")
    conn.execute(sharing("now() - interval '1 day'", "1 minute", "now() - interval '1 millisecond'"))
    holder = connect(autocommit=False)
    holder.execute("SELECT _pgq_try_scan('default'), _pgq_try_scan('')")
    kinds: list[str] = []
    for minutes in (0, 8, 11):
        conn.execute("UPDATE pgq_head SET due = due - %s * interval '1 minute' WHERE queue ~ 'kept'", [minutes])
        Queue(conn).enqueue(f"right-{minutes}")
        walk(connect, kinds=kinds)
    assert kinds == ["right-0", "right-8", "left"]


def test_late_jobs_move_no_head_back(conn: Connection, connect: Connect, queue: WorkerQueue, past: None) -> None:
    """A scan that they fill goes on where it has ended, in one session; the others begin to the right of the past."""
    late = connect(autocommit=False)
    Queue(late).enqueue("late")
    leave_past(conn)
    conn.execute("SELECT pg_sleep(0.15)")
    queue.enqueue_many({"kind": "right", "args": n} for n in range(3))
    late.commit()
    conn.execute(sharing("now() - interval '1 second'", "5 minutes", "now() - interval '0.1 seconds'"))
    kinds: list[str] = []
    assert PAST <= walk(connect, kinds=kinds) < PAST + 100
    going_on = WorkerQueue(connect(autocommit=False))
    kinds += [job.kind for job in going_on.claim()]
    assert PAST <= walked(going_on.conn) < PAST + 100
    assert walk(connect, kinds=kinds) < 200
    going_on.conn.commit()
    assert walk(connect, kinds=kinds) < 200
    assert kinds == ["late", "right", "right", "right"]


def test_shared_heads_keep_up_with_claims(conn: Connection, connect: Connect, past: None) -> None:
    """Sessions that live for one claim do not all walk over what was claimed since the last scan."""
    WorkerQueue(conn).claim()
    leave_past(conn)
    assert walk(connect) >= PAST
    assert walk(connect) < 200


def test_the_delay_is_counted_in_entries(conn: Connection, queue: WorkerQueue, past: None) -> None:
    """However long the scan takes on a busy machine."""
    conn.execute(
        "CREATE OR REPLACE FUNCTION _pgq_rescan_delay(entries bigint) RETURNS interval "
        "LANGUAGE sql IMMUTABLE RETURN entries * interval '1 millisecond'"
    )
    conn.execute(
        "SELECT _pgq_move_heads(ARRAY[ROW('default', now() - interval '1 hour', '0', '{}')::pgq_head], '{}', false, "
        "10000, now(), now() - interval '1 hour')"
    )
    assert one(conn, "SELECT extract(epoch FROM rescan_delay)::integer FROM pgq_head WHERE queue = 'default'") == 10


def test_when_the_walk_is_short_again_no_session_takes_the_lock(
    conn: Connection, connect: Connect, queue: WorkerQueue
) -> None:
    """One claim tells the others, and after that none writes anything."""
    conn.execute(DUE)
    queue.claim()
    fresh = WorkerQueue(connect(autocommit=False))
    fresh.claim()
    assert one(fresh.conn, LOCKS) == 0
    assert one(fresh.conn, "SELECT pg_current_xact_id_if_assigned()") is None


def test_one_session_makes_the_first_scan_of_a_large_index(
    conn: Connection, connect: Connect, pool: ThreadPoolExecutor, snapshot: None
) -> None:
    """While nothing is known, as after a crash, the others wait for what it finds."""
    many, long_name = 40_000, "q" * 200
    conn.execute(
        "INSERT INTO pgq_waiting (queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, "
        "dedup, enqueued_at) SELECT %s, 'past', '0', 5, now() - interval '1 minute', 0, 0, '0', '0', false, "
        "now() FROM generate_series(1, %s)",
        [long_name, many],
    )
    conn.execute("DELETE FROM pgq_waiting")
    first, second = connect(autocommit=False), connect(autocommit=False)
    WorkerQueue(first).claim([long_name])
    assert walked(first) >= many
    waiting = pool.submit(WorkerQueue(second).claim, [long_name])
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    eventually(lambda: one(conn, asleep, second.info.backend_pid) == 1, "the second session waits")
    first.commit()
    assert waiting.result(30) == []
    assert walked(second) < 200
