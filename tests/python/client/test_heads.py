"""Heads: a claim does not scan the entries of ended jobs, and finds again what its head has passed by mistake."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from support.database import Connect, Connection, one, ration, read, record, seen
from support.threads import eventually

from pgq import Queue
from pgq.schema.install import install

PAST = 3000
MANY, FEW = 200, 5


@pytest.fixture(autouse=True)
def rationed(conn: Connection) -> None:
    """No session makes a second long scan during a test, unless the test says so."""
    ration(conn, "5 minutes")


@pytest.fixture
def past(conn: Connection, connect: Connect, snapshot: None) -> None:
    """Many jobs are done, and a snapshot keeps all their index entries."""
    queue = Queue(connect())
    queue.enqueue_many({"kind": "past", "args": n} for n in range(PAST))
    while jobs := queue.claim(max_jobs=1000):
        queue.complete_many(jobs)
    conn.execute("DELETE FROM pgq_head")
    read("pgq_waiting_claim", queue.conn)
    # The end of a lane counts as a tenth of a second ago: the past must be over by then.
    conn.execute("SELECT pg_sleep(0.15)")


def setting(conn: Connection, queue: str = "default") -> str:
    """Return the name of the setting in which a session keeps its heads."""
    return str(one(conn, "SELECT _pgq_head_setting(%s)", queue))


def test_a_session_scans_dead_entries_once(conn: Connection, queue: Queue, past: None) -> None:
    """Its first claim finds where the live jobs begin, and later claims start there."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(500))
    assert len(queue.claim(max_jobs=10)) == 10
    before = read("pgq_waiting_claim", conn)
    for _ in range(20):
        assert len(queue.claim(max_jobs=10)) == 10
    assert read("pgq_waiting_claim", conn) - before < 20 * 250 < PAST * 2


def test_a_head_keeps_up_with_the_claims_of_its_session(conn: Connection, queue: Queue, past: None) -> None:
    """However many jobs the session has claimed, its next claim scans few of them."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(4000))
    for _ in range(30):
        queue.claim(max_jobs=100)
    before = read("pgq_waiting_claim", conn)
    assert len(queue.claim(max_jobs=100)) == 100
    assert read("pgq_waiting_claim", conn) - before < 500


def test_a_head_keeps_up_with_the_claims_of_others(
    conn: Connection, connect: Connect, queue: Queue, past: None
) -> None:
    """A session that gets nothing for a while scans what the others claimed, but only once."""
    other = Queue(connect())
    queue.claim()
    other.claim()
    other.enqueue_many({"kind": "k", "args": n} for n in range(PAST))
    while other.claim(max_jobs=1000):
        pass
    # The end of a lane counts as a tenth of a second ago.
    conn.execute("SELECT pg_sleep(0.15)")
    assert queue.claim() == []
    before = read("pgq_waiting_claim", conn, other.conn)
    assert queue.claim() == []
    assert read("pgq_waiting_claim", conn, other.conn) - before < 200


def test_a_new_session_starts_at_the_heads_that_others_share(
    conn: Connection, connect: Connect, queue: Queue, past: None
) -> None:
    """A client that lives for one claim does not scan the past, either."""
    queue.claim()
    queue.enqueue_many({"kind": "k", "args": n} for n in range(10))
    fresh = Queue(connect())
    before = read("pgq_waiting_claim", fresh.conn, conn)
    assert len(fresh.claim(max_jobs=5)) == 5
    assert read("pgq_waiting_claim", fresh.conn, conn) - before < 200


Way = Callable[[Connection, Connect, Queue, int], None]


def late_commit(conn: Connection, connect: Connect, queue: Queue, jobs: int) -> None:
    """Enqueue a job before another one, and commit it after that one was claimed."""
    late = connect(autocommit=False)
    Queue(late).enqueue("left")
    conn.execute("SELECT pg_sleep(0.15)")
    move_on(queue, jobs)
    late.commit()


def back_dated(conn: Connection, connect: Connect, queue: Queue, jobs: int) -> None:
    """Enqueue a job for a time that has passed."""
    move_on(queue, jobs)
    conn.execute("SELECT pgq_enqueue('left', ripe_at => pgq_now() - interval '1 day')")


def put_back(conn: Connection, connect: Connect, queue: Queue, jobs: int) -> None:
    """Put a claimed job back at its old place."""
    queue.enqueue("left")
    (job,) = queue.claim()
    move_on(queue, jobs)
    Queue(connect()).release(job)


def skipped(conn: Connection, connect: Connect, queue: Queue, jobs: int) -> None:
    """Lock a job in another session, and leave it unchanged."""
    queue.enqueue("left")
    other = connect(autocommit=False)
    other.execute("SELECT FROM pgq_waiting WHERE kind = 'left' FOR UPDATE")
    conn.execute("SELECT pg_sleep(0.15)")
    move_on(queue, jobs)
    other.rollback()


def move_on(queue: Queue, jobs: int) -> None:
    """Claim several times; with many jobs the head is then to the right of all that was there before."""
    for _ in range(4):
        queue.enqueue_many({"kind": "k", "args": n, "dedup": False} for n in range(jobs))
        queue.complete_many(queue.claim(max_jobs=jobs))


def test_a_job_that_commits_a_little_late_is_still_found(
    conn: Connection, connect: Connect, queue: Queue, past: None
) -> None:
    """A head moves to where the previous claim would have put it; later claims stay to its right."""
    queue.claim()
    late = connect(autocommit=False)
    Queue(late).enqueue("late")
    for _ in range(2):
        queue.enqueue_many({"kind": "k", "args": n, "dedup": False} for n in range(300))
        assert len(queue.claim(max_jobs=300)) == 300
    late.commit()
    assert [job.kind for job in queue.claim(max_jobs=300)] == ["late"]


def test_a_job_that_commits_while_a_session_looks_for_its_head_is_found(
    connect: Connect, queue: Queue, past: None
) -> None:
    """The end of a lane counts as a tenth of a second earlier than it is."""
    late = connect(autocommit=False)
    Queue(late).enqueue("late")
    assert queue.claim() == []
    late.commit()
    assert [job.kind for job in queue.claim()] == ["late"]


WAYS = pytest.mark.parametrize("way", [late_commit, back_dated, put_back, skipped])


@WAYS
def test_a_job_that_a_head_has_passed_is_found_by_the_next_long_scan(
    conn: Connection, connect: Connect, queue: Queue, past: None, way: Way
) -> None:
    """A long scan is due at set times, and the claims before it do not find the job."""
    queue.claim()
    way(conn, connect, queue, MANY)
    assert queue.claim() == []
    ration(conn, "0")
    # The five minutes that the session has noted are over.
    conn.execute(
        "SELECT set_config(%(name)s, '1' || substr(current_setting(%(name)s), 17), false)", {"name": setting(conn)}
    )
    conn.execute("DELETE FROM pgq_head")
    assert [job.kind for job in queue.claim()] == ["left"]


@WAYS
def test_the_next_long_scan_is_due_on_time(
    conn: Connection, connect: Connect, queue: Queue, past: None, way: Way
) -> None:
    ration(conn, "200 milliseconds")
    queue.claim()
    way(conn, connect, queue, MANY)
    assert [job.kind for job in eventually(queue.claim, "the job is found", 2)] == ["left"]


@WAYS
def test_in_a_table_without_bloat_the_next_claim_finds_a_passed_job(
    conn: Connection, connect: Connect, queue: Queue, way: Way
) -> None:
    """As long as the scan is short, each claim starts at the left end."""
    queue.claim()
    way(conn, connect, queue, FEW)
    assert [job.kind for job in queue.claim()] == ["left"]


def test_a_claim_that_rolls_back_restores_its_head(queue: Queue, past: None) -> None:
    """The next claim of the session finds the jobs that were claimed."""
    queue.claim()
    queue.enqueue_many({"kind": "k", "args": n} for n in range(1000))
    with queue.conn.transaction(force_rollback=True):
        for _ in range(4):
            assert len(queue.claim(max_jobs=200)) == 200
    assert sorted(job.args for job in queue.claim(max_jobs=1000)) == list(range(1000))


def test_a_long_scan_of_one_lane_hides_nothing_in_another(queue: Queue, past: None) -> None:
    """Jobs come by priority, whatever the heads are, from each queue that is asked for."""
    queue.claim(["default", "other"])
    queue.enqueue("k5", priority=5)
    queue.enqueue("k9", priority=9)
    queue.enqueue("k0", priority=0, queue="other")
    queue.enqueue("k4", priority=4)
    assert [job.kind for job in queue.claim(["default", "other"], 3)] == ["k0", "k4", "k5"]
    queue.enqueue("k1", priority=1)
    assert [job.kind for job in queue.claim(["other", "default"], 3)] == ["k1", "k9"]


def test_jobs_in_a_lane_that_was_not_reached_are_found(queue: Queue, past: None) -> None:
    """A full batch says nothing about the lanes after its last job."""
    queue.enqueue("low", priority=9)
    queue.conn.execute("SELECT pg_sleep(0.15)")
    queue.enqueue_many({"kind": "k", "args": n} for n in range(600))
    for _ in range(3):
        assert len(queue.claim(max_jobs=200)) == 200
    assert [job.kind for job in queue.claim()] == ["low"]


def test_late_jobs_are_all_found_even_if_they_exceed_one_claim(
    conn: Connection, connect: Connect, queue: Queue, past: None
) -> None:
    """The long scan that finds the first of them moves the head back to the others."""
    queue.claim()
    late = connect(autocommit=False)
    Queue(late).enqueue_many({"kind": "late", "args": n} for n in range(500))
    conn.execute("SELECT pg_sleep(0.15)")
    move_on(queue, MANY)
    late.commit()
    conn.execute("RESET ALL")
    conn.execute("DELETE FROM pgq_head")
    found = [queue.claim(max_jobs=100) for _ in range(6)]
    assert [len(jobs) for jobs in found] == [100, 100, 100, 100, 100, 0]


@pytest.mark.parametrize("forget", ["RESET ALL", "DISCARD ALL"])
def test_a_reset_discards_the_heads(conn: Connection, connect: Connect, queue: Queue, past: None, forget: str) -> None:
    """A session that a pooler hands on starts anew."""
    queue.claim()
    back_dated(conn, connect, queue, MANY)
    assert queue.claim() == []
    conn.execute(forget.encode())
    conn.execute("DELETE FROM pgq_head")
    assert [job.kind for job in queue.claim()] == ["left"]


def test_another_installation_has_its_own_heads(conn: Connection, connect: Connect, queue: Queue, past: None) -> None:
    """The two are used in one session, with a queue of the same name."""
    queue.claim()
    move_on(queue, MANY)
    install(conn, schema="other")
    conn.execute("SELECT other.pgq_enqueue('there', ripe_at => now() - interval '1 day')")
    assert [job.kind for job in Queue(conn, schema="other").claim()] == ["there"]


NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
NINES = "9" * 18
GARBAGE = [
    "''",
    "'x'",
    "'-'",
    "'1 2 3'",
    "'1  2'",
    f"'{'9' * 19}'",
    f"'{NINES}'",
    f"'-{NINES}'",
    f"rtrim(repeat('{NINES} ', 41))",
    f"rtrim(repeat('-{NINES} ', 41))",
    f"{NOW} + 60000000 || repeat(' -{NINES}', 40)",
    "repeat('1 ', 500000) || '1'",
    "repeat('9', 1000000)",
    "E'1\\n2'",
]


@pytest.mark.parametrize("value", GARBAGE)
def test_garbage_in_the_setting_counts_as_no_head(conn: Connection, queue: Queue, value: str) -> None:
    """It raises no error and hides no job."""
    queue.enqueue("k")
    conn.execute(f"SELECT set_config(%s, {value}, false)".encode(), [setting(conn)])
    assert len(queue.claim()) == 1


def test_a_forged_head_harms_only_the_session_that_set_it(
    conn: Connection, connect: Connect, queue: Queue, past: None
) -> None:
    """A session with a head in the far future finds nothing until its next long scan, and does not share that head."""
    lie = f"SELECT set_config(%s, {NOW} + %s || repeat(' {NINES}', 40), false)".encode()
    queue.enqueue("k", dedup=False)
    conn.execute(lie, [setting(conn), 100_000_000])
    assert queue.claim() == []
    assert len(Queue(connect()).claim()) == 1
    conn.execute("DELETE FROM pgq_head")
    conn.execute(lie, [setting(conn), -1])
    queue.enqueue("k", dedup=False)
    assert len(queue.claim()) == 1
    queue.enqueue("k", dedup=False)
    assert len(Queue(connect()).claim()) == 1


def test_without_statistics_every_scan_counts_as_long(conn: Connection, queue: Queue, past: None) -> None:
    """With track_counts off the length of a scan is unknown, so a head is kept to be safe."""
    conn.execute("SET track_counts = off")
    queue.enqueue("k")
    assert len(queue.claim()) == 1
    assert len(one(conn, "SELECT current_setting(%s)", setting(conn)).split()) == 41


OLD = "INSERT INTO pgq_head SELECT 'default', now() - interval '1 hour', '1 second', h, h "
HERE = "FROM array_fill((extract(epoch FROM now()) * 1000000)::bigint, '{20}') AS h"


def test_sharing_a_head_waits_for_no_session(conn: Connection, connect: Connect, queue: Queue, past: None) -> None:
    """Two sessions know newer heads than the shared one, and the first one's transaction stays open."""
    conn.execute((OLD + HERE).encode())
    first, second = Queue(connect()), Queue(connect())
    second.conn.execute("SET lock_timeout = '2s'")
    with first.conn.transaction():
        first.claim()
        second.claim()
    told = "SELECT count(*) FILTER (WHERE due > now()), count(*) FROM pgq_head WHERE queue = 'default'"
    assert conn.execute(told.encode()).fetchone() == (2, 2)


def test_an_old_shared_head_is_ignored(conn: Connection, queue: Queue) -> None:
    """A new session leaves the long scan to others for ten times its interval, then makes it itself."""
    conn.execute("SELECT pgq_enqueue('left', ripe_at => pgq_now() - interval '1 day')")
    conn.execute((OLD + HERE).encode())
    assert [job.kind for job in queue.claim()] == ["left"]


def test_a_shared_head_from_the_future_is_ignored(conn: Connection, connect: Connect, queue: Queue) -> None:
    """It was shared before the server's clock was set back."""
    conn.execute(
        "INSERT INTO pgq_head SELECT q, now() + interval '1 hour', '5 minutes', h, h "
        "FROM unnest('{default,NULL}'::text[]) AS n CROSS JOIN LATERAL coalesce(n, '') AS q "
        "CROSS JOIN LATERAL array_fill(extract(epoch FROM now() + interval '1 hour')::bigint * 1000000, '{20}') AS h"
    )
    queue.enqueue("k")
    assert [job.attempt for job in queue.claim()] == [1]
    conn.execute("UPDATE pgq_running SET lease_until = clock_timestamp() - interval '1 second'")
    assert [job.attempt for job in Queue(connect()).claim()] == [2]


def test_a_shared_head_from_the_future_is_replaced(conn: Connection, queue: Queue, past: None) -> None:
    """It does not stay in the way of the next one for an hour."""
    conn.execute("INSERT INTO pgq_head VALUES ('default', now() + interval '1 hour', '5 minutes', '{}', '{}')")
    queue.claim()
    assert one(conn, "SELECT due < now() + interval '10 minutes' FROM pgq_head WHERE queue = 'default'")


@pytest.mark.parametrize("setting", ["array_nulls", "standard_conforming_strings"])
def test_session_settings_do_not_break_the_heads(conn: Connection, queue: Queue, past: None, setting: str) -> None:
    """These settings change how arrays and strings are read."""
    conn.execute(f"SET {setting} = off".encode())
    queue.enqueue_many({"kind": "k", "args": n} for n in range(300))
    assert [len(queue.claim(max_jobs=100)) for _ in range(4)] == [100, 100, 100, 0]
    conn.execute("SELECT set_config(_pgq_head_setting('default'), 'd d', false)")
    assert queue.claim() == []


def test_heads_are_shared_at_most_once_a_second(conn: Connection, queue: Queue, past: None) -> None:
    """This holds however many scans are made."""
    ration(conn, "20 milliseconds")
    record(conn, "pgq_head", "INSERT", "clock_timestamp()")
    conn.execute("DO $$BEGIN FOR i IN 1..30 LOOP PERFORM pgq_claim(); PERFORM pg_sleep(0.05); END LOOP; END$$")
    assert seen(conn)
    told = "SELECT value0::timestamptz AS at, lag(value0::timestamptz) OVER (ORDER BY value0::timestamptz) AS before"
    closest = f"SELECT min(at - before) FROM ({told} FROM seen) AS t"
    assert one(conn, f"SELECT coalesce(({closest}), '1 hour') > interval '0.9 s'")


def test_a_claim_in_a_stricter_isolation_shares_no_head(queue: Queue, past: None) -> None:
    """Removing the older shared head could fail with a serialization error."""
    queue.conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with queue.conn.transaction():
        assert queue.claim() == []
    assert one(queue.conn, "SELECT count(*) FROM pgq_head") == 0


def test_expired_leases_are_looked_for_once_a_second(conn: Connection, queue: Queue) -> None:
    """The test uses the real interval: not each claim looks for them, and none does so much later."""
    ration(conn, "1 second")
    queue.enqueue("k")
    queue.claim()
    conn.execute("UPDATE pgq_running SET lease_until = clock_timestamp() - interval '1 second'")
    assert queue.claim() == []
    assert [job.attempt for job in eventually(queue.claim, "the expired job is claimed", 3)] == [2]


def test_one_session_makes_the_long_scan_for_expired_leases(
    conn: Connection, connect: Connect, queue: Queue, snapshot: None
) -> None:
    """The index of the leases is full of dead entries."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(PAST))
    jobs = queue.claim(max_jobs=PAST)
    conn.execute("UPDATE pgq_running SET lease_until = clock_timestamp() - interval '1 hour'")
    queue.complete_many(jobs)
    first, second = Queue(connect()), Queue(connect())
    before = read("pgq_running_lease", first.conn, conn)
    first.claim(max_jobs=0)
    walked = read("pgq_running_lease", first.conn, conn) - before
    assert walked >= PAST
    second.claim(max_jobs=0)
    assert read("pgq_running_lease", second.conn, first.conn) - before - walked < 100


def test_a_long_scan_for_leases_that_fills_its_batch_is_repeated_at_once(
    conn: Connection, connect: Connect, queue: Queue, snapshot: None
) -> None:
    """Otherwise the jobs of a dead host with many workers would come back by fifties, with long pauses."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(620))
    jobs = queue.claim(max_jobs=620)
    conn.execute("UPDATE pgq_running SET lease_until = clock_timestamp() - interval '1 hour'")
    queue.complete_many(jobs[:500])
    fresh = Queue(connect())
    assert [len(fresh.claim(max_jobs=100)) for _ in range(4)] == [50, 50, 20, 0]
