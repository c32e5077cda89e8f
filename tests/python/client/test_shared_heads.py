"""Heads that sessions share: a new session begins at them, and one session makes the next long scan."""

from __future__ import annotations

import psycopg
import pytest
from support.database import Connect, Connection, expire, one, ration, read, record, seen
from support.heads import PAST, pass_due, sharing
from support.threads import eventually

from pgq import WorkerQueue

pytestmark = pytest.mark.usefixtures("rationed")


def test_a_new_session_starts_at_the_heads_that_others_share(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None
) -> None:
    """A client that makes only one claim does not scan the past, either."""
    queue.claim()
    queue.enqueue_many({"kind": "k", "args": n} for n in range(10))
    fresh = WorkerQueue(connect())
    before = read("pgq_waiting_claim", fresh.conn, conn)
    assert len(fresh.claim(max_jobs=5)) == 5
    assert read("pgq_waiting_claim", fresh.conn, conn) - before < 200


def test_a_session_starts_at_its_heads_when_nothing_is_shared(conn: Connection, queue: WorkerQueue, past: None) -> None:
    """A short scan is not shared, and after a crash the table is empty."""
    queue.claim()
    conn.execute("DELETE FROM pgq_head")
    before = read("pgq_waiting_claim", conn)
    for _ in range(10):
        assert queue.claim() == []
    assert read("pgq_waiting_claim", conn) - before < PAST


def test_a_scan_that_is_due_is_not_made_when_another_session_has_made_one(
    conn: Connection, queue: WorkerQueue, past: None
) -> None:
    """The session waits again, because what the other one has found is in pgq_head."""
    queue.claim()
    pass_due(conn)
    before = read("pgq_waiting_claim", conn)
    assert queue.claim() == []
    assert read("pgq_waiting_claim", conn) - before < 200


OLD = sharing("now() - interval '1 hour'", "1 second", "now()")


def test_a_shared_head_keeps_the_lanes_that_the_scan_has_not_reached(
    conn: Connection, queue: WorkerQueue, past: None
) -> None:
    """What was shared before is still true of them; each lane is named once."""
    conn.execute(OLD)
    queue.enqueue("k")
    assert len(queue.claim()) == 1
    shared = "SELECT array_agg(l.priority ORDER BY l.priority) FROM pgq_head AS h, unnest(h.lanes) AS l WHERE "
    assert one(conn, shared + "h.queue = 'default' AND h.due > now()") == list(range(10))


@pytest.mark.parametrize(("delay", "shared"), [("50 milliseconds", 0), ("51 milliseconds", 1)])
def test_a_short_scan_is_not_shared(conn: Connection, queue: WorkerQueue, past: None, delay: str, shared: int) -> None:
    """A scan of a few milliseconds costs no write."""
    ration(conn, delay)
    queue.claim()
    assert one(conn, "SELECT count(*) FROM pgq_head WHERE queue = 'default'") == shared


def test_sharing_a_head_waits_for_no_lock(conn: Connection, connect: Connect, past: None) -> None:
    """Two sessions scan, because the lock was found taken long ago, and the first one's transaction stays open."""
    conn.execute(OLD)
    conn.execute(
        "INSERT INTO pgq_head VALUES (E'\\x1f kept default', now() - interval '30 minutes', interval '1 second', '{}')"
    )
    first, second = WorkerQueue(connect()), WorkerQueue(connect())
    second.conn.execute("SET lock_timeout = '2s'")
    with first.conn.transaction():
        first.claim()
        second.claim()
    count = "SELECT count(*) FILTER (WHERE due > now()), count(*) FROM pgq_head WHERE queue = 'default'"
    assert conn.execute(count.encode()).fetchone() == (2, 2)


def test_a_shared_head_from_the_future_is_ignored(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """It was shared before the server's clock was set back."""
    hour = "now() + interval '1 hour'"
    conn.execute(sharing(hour, "5 minutes", hour))
    queue.enqueue("k")
    assert [job.attempt for job in queue.claim()] == [1]
    expire(conn)
    assert [job.attempt for job in WorkerQueue(connect()).claim()] == [2]


@pytest.mark.parametrize("ahead", ["2 minutes", "8 minutes"])
def test_a_shared_head_that_is_due_after_its_own_delay_is_ignored(
    conn: Connection, connect: Connect, queue: WorkerQueue, ahead: str
) -> None:
    """However little the clock was set back; nor does it keep a new head from being shared."""
    conn.execute(sharing(f"now() + interval '{ahead}'", "1 second", f"now() + interval '{ahead}'"))
    queue.enqueue("k")
    assert [job.attempt for job in queue.claim()] == [1]
    expire(conn)
    assert [job.attempt for job in WorkerQueue(connect()).claim()] == [2]


def test_a_shared_head_from_the_future_is_replaced(conn: Connection, queue: WorkerQueue, past: None) -> None:
    """It does not hide newer heads for an hour."""
    conn.execute("INSERT INTO pgq_head VALUES ('default', now() + interval '1 hour', '5 minutes', '{}')")
    queue.claim()
    assert one(conn, "SELECT due < now() + interval '10 minutes' FROM pgq_head WHERE queue = 'default'")


def test_after_the_clock_was_set_back_heads_are_shared_again(conn: Connection, queue: WorkerQueue, past: None) -> None:
    """An older head does not count as shared within the last second for as long as the step was."""
    conn.execute("INSERT INTO pgq_head VALUES ('default', now() + interval '7 minutes', '5 minutes', '{}')")
    queue.claim()
    assert one(conn, "SELECT due < now() + interval '6 minutes' FROM pgq_head WHERE queue = 'default'")


def test_heads_are_shared_at_most_once_a_second(conn: Connection, past: None) -> None:
    """The number of scans does not matter."""
    ration(conn, "60 milliseconds")
    record(conn, "pgq_head", "INSERT", "clock_timestamp()")
    conn.execute("DO $$BEGIN FOR i IN 1..30 LOOP PERFORM pgq_claim(); PERFORM pg_sleep(0.05); END LOOP; END$$")
    assert seen(conn)
    times = "SELECT value0::timestamptz AS at, lag(value0::timestamptz) OVER (ORDER BY value0::timestamptz) AS before"
    closest = f"SELECT min(at - before) FROM ({times} FROM seen) AS t"
    assert one(conn, f"SELECT coalesce(({closest}), '1 hour') > interval '0.9 s'")


def test_a_claim_in_a_stricter_isolation_shares_no_head(queue: WorkerQueue, past: None) -> None:
    """Removing the older shared head could fail with a serialization error."""
    queue.conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with queue.conn.transaction():
        assert queue.claim() == []
    assert one(queue.conn, "SELECT count(*) FROM pgq_head WHERE queue <> chr(31)") == 0


def test_expired_leases_are_looked_for_once_a_second(conn: Connection, queue: WorkerQueue) -> None:
    """The test uses the real delay: not each claim looks for them, and none does so much later."""
    ration(conn, "1 second")
    queue.enqueue("k")
    queue.claim()
    expire(conn)
    assert queue.claim() == []
    assert [job.attempt for job in eventually(queue.claim, "the expired job is claimed", 3)] == [2]


def test_one_session_makes_the_long_scan_for_expired_leases(
    conn: Connection, connect: Connect, queue: WorkerQueue, snapshot: None
) -> None:
    """The index of the leases is full of dead entries."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(PAST))
    jobs = queue.claim(max_jobs=PAST)
    conn.execute("UPDATE pgq_running SET lease_until = clock_timestamp() - interval '1 hour'")
    queue.complete_many(jobs)
    first, second = WorkerQueue(connect()), WorkerQueue(connect())
    before = read("pgq_running_lease", first.conn, conn)
    first.claim(max_jobs=0)
    walked = read("pgq_running_lease", first.conn, conn) - before
    assert walked >= PAST
    second.claim(max_jobs=0)
    assert read("pgq_running_lease", second.conn, first.conn) - before - walked < 100


def test_a_long_scan_for_leases_that_fills_its_batch_is_repeated_at_once(
    conn: Connection, connect: Connect, queue: WorkerQueue, snapshot: None
) -> None:
    """Otherwise the jobs of a dead host with many workers would come back fifty at a time, with long pauses."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(620))
    jobs = queue.claim(max_jobs=620)
    conn.execute("UPDATE pgq_running SET lease_until = clock_timestamp() - interval '1 hour'")
    queue.complete_many(jobs[:500])
    fresh = WorkerQueue(connect())
    assert [len(fresh.claim(max_jobs=100)) for _ in range(4)] == [50, 50, 20, 0]
