"""A claim does not walk over the jobs of the past, and what it has walked past by mistake is found again."""

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
    """Nobody makes a second long scan during a test, unless it says so."""
    ration(conn, "5 minutes")


@pytest.fixture
def past(conn: Connection, connect: Connect, snapshot: None) -> None:
    """Many jobs are done, and a snapshot keeps the entries of all of them."""
    queue = Queue(connect())
    queue.enqueue_many({"kind": "past", "args": n} for n in range(PAST))
    while jobs := queue.claim(max_jobs=1000):
        queue.complete_many(jobs)
    conn.execute("DELETE FROM pgq_head")
    read("pgq_waiting_claim", queue.conn)
    # The end of a lane counts as a tenth of a second ago: let the past be over by then.
    conn.execute("SELECT pg_sleep(0.15)")


def setting(conn: Connection, queue: str = "default") -> str:
    """The name of the setting in which a session keeps its heads."""
    return str(one(conn, "SELECT _pgq_head_setting(%s)", queue))


def test_dead_entries_are_walked_over_once(conn: Connection, queue: Queue, past: None) -> None:
    """The first claim of a session finds where the live jobs begin, and the others start there."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(500))
    assert len(queue.claim(max_jobs=10)) == 10
    before = read("pgq_waiting_claim", conn)
    for _ in range(20):
        assert len(queue.claim(max_jobs=10)) == 10
    assert read("pgq_waiting_claim", conn) - before < 20 * 250 < PAST * 2


def test_a_head_keeps_up_with_what_the_session_claims(conn: Connection, queue: Queue, past: None) -> None:
    """Each claim walks over a few of the jobs that were claimed before it, however many there were."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(4000))
    for _ in range(30):
        queue.claim(max_jobs=100)
    before = read("pgq_waiting_claim", conn)
    assert len(queue.claim(max_jobs=100)) == 100
    assert read("pgq_waiting_claim", conn) - before < 500


def test_a_head_keeps_up_with_what_others_claim(conn: Connection, connect: Connect, queue: Queue, past: None) -> None:
    """Who gets nothing for a while walks over what the others got, but not twice."""
    other = Queue(connect())
    queue.claim()
    other.claim()
    other.enqueue_many({"kind": "k", "args": n} for n in range(PAST))
    while other.claim(max_jobs=1000):
        pass
    # An end that was found is taken for one of a tenth of a second ago.
    conn.execute("SELECT pg_sleep(0.15)")
    assert queue.claim() == []
    before = read("pgq_waiting_claim", conn, other.conn)
    assert queue.claim() == []
    assert read("pgq_waiting_claim", conn, other.conn) - before < 200


def test_a_new_session_begins_where_others_have_arrived(
    conn: Connection, connect: Connect, queue: Queue, past: None
) -> None:
    """A client that lives for one claim does not pay for the past, either."""
    queue.claim()
    queue.enqueue_many({"kind": "k", "args": n} for n in range(10))
    fresh = Queue(connect())
    before = read("pgq_waiting_claim", fresh.conn, conn)
    assert len(fresh.claim(max_jobs=5)) == 5
    assert read("pgq_waiting_claim", fresh.conn, conn) - before < 200


Way = Callable[[Connection, Connect, Queue, int], None]


def late_commit(conn: Connection, connect: Connect, queue: Queue, jobs: int) -> None:
    """A job is enqueued before another one, and committed after that was claimed."""
    late = connect(autocommit=False)
    Queue(late).enqueue("left")
    conn.execute("SELECT pg_sleep(0.15)")
    move_on(queue, jobs)
    late.commit()


def back_dated(conn: Connection, connect: Connect, queue: Queue, jobs: int) -> None:
    """A job is enqueued for a time that has passed."""
    move_on(queue, jobs)
    conn.execute("SELECT pgq_enqueue('left', ripe_at => pgq_now() - interval '1 day')")


def put_back(conn: Connection, connect: Connect, queue: Queue, jobs: int) -> None:
    """A claimed job goes back to its old place."""
    queue.enqueue("left")
    (job,) = queue.claim()
    move_on(queue, jobs)
    Queue(connect()).release(job)


def skipped(conn: Connection, connect: Connect, queue: Queue, jobs: int) -> None:
    """A job is locked by somebody who in the end leaves it alone."""
    queue.enqueue("left")
    other = connect(autocommit=False)
    other.execute("SELECT FROM pgq_waiting WHERE kind = 'left' FOR UPDATE")
    conn.execute("SELECT pg_sleep(0.15)")
    move_on(queue, jobs)
    other.rollback()


def move_on(queue: Queue, jobs: int) -> None:
    """Claim several times: with many jobs the head is then to the right of whatever was there before."""
    for _ in range(4):
        queue.enqueue_many({"kind": "k", "args": n, "dedup": False} for n in range(jobs))
        queue.complete_many(queue.claim(max_jobs=jobs))


def test_a_job_that_commits_a_little_late_is_still_to_the_right(
    conn: Connection, connect: Connect, queue: Queue, past: None
) -> None:
    """A head moves to where it was to move before, and the jobs that were claimed meanwhile stay to its right."""
    queue.claim()
    late = connect(autocommit=False)
    Queue(late).enqueue("late")
    for _ in range(2):
        queue.enqueue_many({"kind": "k", "args": n, "dedup": False} for n in range(300))
        assert len(queue.claim(max_jobs=300)) == 300
    late.commit()
    assert [job.kind for job in queue.claim(max_jobs=300)] == ["late"]


def test_a_job_that_commits_while_a_session_looks_for_its_head_is_to_the_right(
    connect: Connect, queue: Queue, past: None
) -> None:
    """The end of a lane is taken for a tenth of a second earlier than it is."""
    late = connect(autocommit=False)
    Queue(late).enqueue("late")
    assert queue.claim() == []
    late.commit()
    assert [job.kind for job in queue.claim()] == ["late"]


WAYS = pytest.mark.parametrize("way", [late_commit, back_dated, put_back, skipped])


@WAYS
def test_what_a_head_has_passed_is_found_by_the_next_long_scan(
    conn: Connection, connect: Connect, queue: Queue, past: None, way: Way
) -> None:
    """Not before: such a scan is made only in its time."""
    queue.claim()
    way(conn, connect, queue, MANY)
    assert queue.claim() == []
    ration(conn, "0")
    # The five minutes that the session has noted down are over.
    conn.execute(
        "SELECT set_config(%(name)s, '1' || substr(current_setting(%(name)s), 17), false)", {"name": setting(conn)}
    )
    conn.execute("DELETE FROM pgq_head")
    assert [job.kind for job in queue.claim()] == ["left"]


@WAYS
def test_the_next_long_scan_comes_by_itself(
    conn: Connection, connect: Connect, queue: Queue, past: None, way: Way
) -> None:
    """And not later than it should."""
    ration(conn, "200 milliseconds")
    queue.claim()
    way(conn, connect, queue, MANY)
    assert [job.kind for job in eventually(queue.claim, "the job is found", 2)] == ["left"]


@WAYS
def test_in_a_healthy_table_it_is_found_by_the_next_claim(
    conn: Connection, connect: Connect, queue: Queue, way: Way
) -> None:
    """As long as the walk is short, each claim starts at the left end."""
    queue.claim()
    way(conn, connect, queue, FEW)
    assert [job.kind for job in queue.claim()] == ["left"]


def test_a_claim_that_rolls_back_takes_its_head_back(queue: Queue, past: None) -> None:
    """The jobs that it had claimed are found by the next claim of the session."""
    queue.claim()
    queue.enqueue_many({"kind": "k", "args": n} for n in range(1000))
    with queue.conn.transaction(force_rollback=True):
        for _ in range(4):
            assert len(queue.claim(max_jobs=200)) == 200
    assert sorted(job.args for job in queue.claim(max_jobs=1000)) == list(range(1000))


def test_a_long_walk_through_one_lane_hides_nothing_in_another(queue: Queue, past: None) -> None:
    """Jobs come by priority, whatever the heads are, and those of each queue that is asked for."""
    queue.claim(["default", "other"])
    queue.enqueue("k5", priority=5)
    queue.enqueue("k9", priority=9)
    queue.enqueue("k0", priority=0, queue="other")
    queue.enqueue("k4", priority=4)
    assert [job.kind for job in queue.claim(["default", "other"], 3)] == ["k0", "k4", "k5"]
    queue.enqueue("k1", priority=1)
    assert [job.kind for job in queue.claim(["other", "default"], 3)] == ["k1", "k9"]


def test_a_lane_that_was_not_reached_is_walked_from_its_end(queue: Queue, past: None) -> None:
    """A batch that is full tells nothing about the lanes after its last job."""
    queue.enqueue("low", priority=9)
    queue.conn.execute("SELECT pg_sleep(0.15)")
    queue.enqueue_many({"kind": "k", "args": n} for n in range(600))
    for _ in range(3):
        assert len(queue.claim(max_jobs=200)) == 200
    assert [job.kind for job in queue.claim()] == ["low"]


def test_more_late_jobs_than_a_claim_takes_are_all_found(
    conn: Connection, connect: Connect, queue: Queue, past: None
) -> None:
    """The long scan that finds the first of them puts the head back to where the others are."""
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
def test_a_head_does_not_survive_a_reset(
    conn: Connection, connect: Connect, queue: Queue, past: None, forget: str
) -> None:
    """A session that is handed on starts anew."""
    queue.claim()
    back_dated(conn, connect, queue, MANY)
    assert queue.claim() == []
    conn.execute(forget.encode())
    conn.execute("DELETE FROM pgq_head")
    assert [job.kind for job in queue.claim()] == ["left"]


def test_another_installation_has_heads_of_its_own(
    conn: Connection, connect: Connect, queue: Queue, past: None
) -> None:
    """In the same session, and for a queue of the same name."""
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
def test_garbage_in_the_setting_is_no_head(conn: Connection, queue: Queue, value: str) -> None:
    """No error, no job that is not found."""
    queue.enqueue("k")
    conn.execute(f"SELECT set_config(%s, {value}, false)".encode(), [setting(conn)])
    assert len(queue.claim()) == 1


def test_a_lie_in_the_setting_hurts_the_liar_alone(
    conn: Connection, connect: Connect, queue: Queue, past: None
) -> None:
    """Who sets a head in the far future finds nothing until his next long scan, and tells nobody else."""
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


def test_a_server_that_does_not_count_makes_each_walk_long(conn: Connection, queue: Queue, past: None) -> None:
    """Then nobody knows, and a head is kept for safety's sake."""
    conn.execute("SET track_counts = off")
    queue.enqueue("k")
    assert len(queue.claim()) == 1
    assert len(one(conn, "SELECT current_setting(%s)", setting(conn)).split()) == 41


OLD = "INSERT INTO pgq_head SELECT 'default', now() - interval '1 hour', '1 second', h, h "
HERE = "FROM array_fill((extract(epoch FROM now()) * 1000000)::bigint, '{20}') AS h"


def test_telling_others_waits_for_nobody(conn: Connection, connect: Connect, queue: Queue, past: None) -> None:
    """Two sessions know something newer than what is told, the first in a transaction that stays open."""
    conn.execute((OLD + HERE).encode())
    first, second = Queue(connect()), Queue(connect())
    second.conn.execute("SET lock_timeout = '2s'")
    with first.conn.transaction():
        first.claim()
        second.claim()
    told = "SELECT count(*) FILTER (WHERE due > now()), count(*) FROM pgq_head WHERE queue = 'default'"
    assert conn.execute(told.encode()).fetchone() == (2, 2)


def test_what_was_told_long_ago_is_not_believed(conn: Connection, queue: Queue) -> None:
    """A new session leaves the scan to others for ten pauses, and then makes it itself."""
    conn.execute("SELECT pgq_enqueue('left', ripe_at => pgq_now() - interval '1 day')")
    conn.execute((OLD + HERE).encode())
    assert [job.kind for job in queue.claim()] == ["left"]


def test_what_others_tell_from_the_future_is_not_believed(conn: Connection, connect: Connect, queue: Queue) -> None:
    """Somebody told it before the clock of the server was set back."""
    conn.execute(
        "INSERT INTO pgq_head SELECT q, now() + interval '1 hour', '5 minutes', h, h "
        "FROM unnest('{default,NULL}'::text[]) AS n CROSS JOIN LATERAL coalesce(n, '') AS q "
        "CROSS JOIN LATERAL array_fill(extract(epoch FROM now() + interval '1 hour')::bigint * 1000000, '{20}') AS h"
    )
    queue.enqueue("k")
    assert [job.attempt for job in queue.claim()] == [1]
    conn.execute("UPDATE pgq_running SET lease_until = clock_timestamp() - interval '1 second'")
    assert [job.attempt for job in Queue(connect()).claim()] == [2]


def test_it_gives_way_to_what_is_found_since(conn: Connection, queue: Queue, past: None) -> None:
    """And does not stand before it for an hour."""
    conn.execute("INSERT INTO pgq_head VALUES ('default', now() + interval '1 hour', '5 minutes', '{}', '{}')")
    queue.claim()
    assert one(conn, "SELECT due < now() + interval '10 minutes' FROM pgq_head WHERE queue = 'default'")


@pytest.mark.parametrize("setting", ["array_nulls", "standard_conforming_strings"])
def test_the_settings_of_a_session_do_not_break_its_heads(
    conn: Connection, queue: Queue, past: None, setting: str
) -> None:
    """Those that change how arrays and strings are read."""
    conn.execute(f"SET {setting} = off".encode())
    queue.enqueue_many({"kind": "k", "args": n} for n in range(300))
    assert [len(queue.claim(max_jobs=100)) for _ in range(4)] == [100, 100, 100, 0]
    conn.execute("SELECT set_config(_pgq_head_setting('default'), 'd d', false)")
    assert queue.claim() == []


def test_others_are_told_at_most_once_a_second(conn: Connection, queue: Queue, past: None) -> None:
    """However many scans are made."""
    ration(conn, "20 milliseconds")
    record(conn, "pgq_head", "INSERT", "clock_timestamp()")
    conn.execute("DO $$BEGIN FOR i IN 1..30 LOOP PERFORM pgq_claim(); PERFORM pg_sleep(0.05); END LOOP; END$$")
    assert seen(conn)
    told = "SELECT value0::timestamptz AS at, lag(value0::timestamptz) OVER (ORDER BY value0::timestamptz) AS before"
    closest = f"SELECT min(at - before) FROM ({told} FROM seen) AS t"
    assert one(conn, f"SELECT coalesce(({closest}), '1 hour') > interval '0.9 s'")


def test_a_claim_in_a_stricter_isolation_tells_nobody(queue: Queue, past: None) -> None:
    """It could not remove what was told before without the risk of failing."""
    queue.conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with queue.conn.transaction():
        assert queue.claim() == []
    assert one(queue.conn, "SELECT count(*) FROM pgq_head") == 0


def test_expired_leases_are_looked_for_once_a_second(conn: Connection, queue: Queue) -> None:
    """With the real ration: neither at each claim nor much later."""
    ration(conn, "1 second")
    queue.enqueue("k")
    queue.claim()
    conn.execute("UPDATE pgq_running SET lease_until = clock_timestamp() - interval '1 second'")
    assert queue.claim() == []
    assert [job.attempt for job in eventually(queue.claim, "the lease is settled", 3)] == [2]


def test_a_long_search_for_leases_is_made_by_one_session(
    conn: Connection, connect: Connect, queue: Queue, snapshot: None
) -> None:
    """Where the index of the leases is full of the dead, too."""
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


def test_a_long_search_that_finds_its_fill_is_made_again_at_once(
    conn: Connection, connect: Connect, queue: Queue, snapshot: None
) -> None:
    """When a host with many workers has died, their jobs are not handed out by fifties with long pauses between."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(620))
    jobs = queue.claim(max_jobs=620)
    conn.execute("UPDATE pgq_running SET lease_until = clock_timestamp() - interval '1 hour'")
    queue.complete_many(jobs[:500])
    fresh = Queue(connect())
    assert [len(fresh.claim(max_jobs=100)) for _ in range(4)] == [50, 50, 20, 0]
