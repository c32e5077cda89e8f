"""Heads: a claim does not scan the entries of ended jobs, and finds again what its head has passed by mistake."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from support.database import Connect, Connection, expire, one, ration, read, record, seen
from support.threads import eventually

from pgq import Queue, WorkerQueue
from pgq.schema.install import install

PAST = 3000
MANY, FEW = 200, 5


@pytest.fixture(autouse=True)
def rationed(conn: Connection) -> None:
    """No second long scan is made during a test, unless the test says so."""
    ration(conn, "5 minutes")


@pytest.fixture
def past(conn: Connection, connect: Connect, snapshot: None) -> None:
    """Leave many completed jobs behind, and a snapshot that keeps the index entries of all of them."""
    queue = WorkerQueue(connect())
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


def test_a_session_scans_dead_entries_once(conn: Connection, queue: WorkerQueue, past: None) -> None:
    """The first claim of a session finds where the live jobs begin, and later claims start there."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(500))
    assert len(queue.claim(max_jobs=10)) == 10
    before = read("pgq_waiting_claim", conn)
    for _ in range(20):
        assert len(queue.claim(max_jobs=10)) == 10
    assert read("pgq_waiting_claim", conn) - before < 20 * 250 < PAST * 2


def test_a_head_keeps_up_with_the_claims_of_its_session(conn: Connection, queue: WorkerQueue, past: None) -> None:
    """However many jobs the session has claimed, its next claim scans few of them."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(4000))
    for _ in range(30):
        queue.claim(max_jobs=100)
    before = read("pgq_waiting_claim", conn)
    assert len(queue.claim(max_jobs=100)) == 100
    assert read("pgq_waiting_claim", conn) - before < 500


def test_a_head_keeps_up_with_the_claims_of_others(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None
) -> None:
    """A session that gets nothing for a while scans what others claimed, but only once."""
    other = WorkerQueue(connect())
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
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None
) -> None:
    """A client that makes only one claim does not scan the past, either."""
    queue.claim()
    queue.enqueue_many({"kind": "k", "args": n} for n in range(10))
    fresh = WorkerQueue(connect())
    before = read("pgq_waiting_claim", fresh.conn, conn)
    assert len(fresh.claim(max_jobs=5)) == 5
    assert read("pgq_waiting_claim", fresh.conn, conn) - before < 200


def known(conn: Connection, queue: str = "default") -> list[int]:
    """Return the priorities of the lanes whose heads the session keeps."""
    saved = one(conn, "SELECT split_part(current_setting(%s), ' ', 2)", setting(conn, queue))
    return sorted(
        row[0] for row in conn.execute("SELECT priority FROM unnest(%s::_pgq_lane_head[])", [saved]).fetchall()
    )


def pass_due(conn: Connection) -> None:
    """Move the session's ``due`` into the past, so that a long scan is due."""
    conn.execute(
        "SELECT set_config(%(name)s, '1' || substr(current_setting(%(name)s), 17), false)", {"name": setting(conn)}
    )


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


Way = Callable[[Connection, Connect, WorkerQueue, int], None]


def late_commit(conn: Connection, connect: Connect, queue: WorkerQueue, jobs: int) -> None:
    """Enqueue a job before another one, and commit it after that one was claimed."""
    late = connect(autocommit=False)
    Queue(late).enqueue("left")
    conn.execute("SELECT pg_sleep(0.15)")
    move_on(queue, jobs)
    late.commit()


def back_dated(conn: Connection, connect: Connect, queue: WorkerQueue, jobs: int) -> None:
    """Enqueue a job for a time that has passed."""
    move_on(queue, jobs)
    conn.execute("SELECT pgq_enqueue('left', ripe_at => pgq_now() - interval '1 day')")


def put_back(conn: Connection, connect: Connect, queue: WorkerQueue, jobs: int) -> None:
    """Put a claimed job back at its old place."""
    queue.enqueue("left")
    (job,) = queue.claim()
    move_on(queue, jobs)
    WorkerQueue(connect()).release(job)


def skipped(conn: Connection, connect: Connect, queue: WorkerQueue, jobs: int) -> None:
    """Lock a job while claims pass it, and roll back."""
    queue.enqueue("left")
    other = connect(autocommit=False)
    other.execute("SELECT FROM pgq_waiting WHERE kind = 'left' FOR UPDATE")
    conn.execute("SELECT pg_sleep(0.15)")
    move_on(queue, jobs)
    other.rollback()


def move_on(queue: WorkerQueue, jobs: int) -> None:
    """Claim several times; with many jobs the head is then to the right of all that was there before."""
    for _ in range(4):
        queue.enqueue_many({"kind": "k", "args": n, "dedup": False} for n in range(jobs))
        queue.complete_many(queue.claim(max_jobs=jobs))


def test_a_job_that_commits_a_little_late_is_still_found(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None
) -> None:
    """A head moves only to where the previous claim has arrived, so a job of that time stays to its right."""
    queue.claim()
    late = connect(autocommit=False)
    Queue(late).enqueue("late")
    for _ in range(2):
        queue.enqueue_many({"kind": "k", "args": n, "dedup": False} for n in range(300))
        assert len(queue.claim(max_jobs=300)) == 300
    late.commit()
    assert [job.kind for job in queue.claim(max_jobs=300)] == ["late"]


def test_a_job_that_commits_after_a_long_scan_is_still_found(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None
) -> None:
    """A scan from the start of a lane moves its head in two steps, too."""
    queue.claim()
    late = connect(autocommit=False)
    WorkerQueue(late).enqueue("late")
    queue.enqueue_many({"kind": "k", "args": n, "dedup": False} for n in range(300))
    pass_due(conn)
    conn.execute("DELETE FROM pgq_head")
    assert len(queue.claim(max_jobs=300)) == 300
    late.commit()
    assert [job.kind for job in queue.claim(max_jobs=300)] == ["late"]


def test_a_job_that_commits_while_a_session_looks_for_its_head_is_found(
    connect: Connect, queue: WorkerQueue, past: None
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
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None, way: Way
) -> None:
    """It is not found before, because a long scan is made only when it is due."""
    queue.claim()
    way(conn, connect, queue, MANY)
    assert queue.claim() == []
    ration(conn, "0")
    pass_due(conn)
    conn.execute("DELETE FROM pgq_head")
    assert [job.kind for job in queue.claim()] == ["left"]


@WAYS
def test_the_next_long_scan_is_made_when_it_is_due(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None, way: Way
) -> None:
    """Without any help, a job that a head has passed is found soon after the delay."""
    ration(conn, "200 milliseconds")
    queue.claim()
    way(conn, connect, queue, MANY)
    assert [job.kind for job in eventually(queue.claim, "the job is found", 2)] == ["left"]


@WAYS
def test_in_a_table_without_bloat_the_next_claim_finds_a_passed_job(
    conn: Connection, connect: Connect, queue: WorkerQueue, way: Way
) -> None:
    """As long as the scan is short, each claim starts at the start of the lanes."""
    queue.claim()
    way(conn, connect, queue, FEW)
    assert [job.kind for job in queue.claim()] == ["left"]


def test_a_claim_that_rolls_back_restores_its_head(queue: WorkerQueue, past: None) -> None:
    """The next claim of the session finds the jobs again."""
    queue.claim()
    queue.enqueue_many({"kind": "k", "args": n} for n in range(1000))
    with queue.conn.transaction(force_rollback=True):
        for _ in range(4):
            assert len(queue.claim(max_jobs=200)) == 200
    assert sorted(job.args for job in queue.claim(max_jobs=1000)) == list(range(1000))


def test_a_long_scan_of_one_lane_hides_nothing_in_another(queue: WorkerQueue, past: None) -> None:
    """Jobs come by priority, from each queue that is asked for, whatever the heads are."""
    queue.claim(["default", "other"])
    queue.enqueue("k5", priority=5)
    queue.enqueue("k9", priority=9)
    queue.enqueue("k0", priority=0, queue="other")
    queue.enqueue("k4", priority=4)
    assert [job.kind for job in queue.claim(["default", "other"], 3)] == ["k0", "k4", "k5"]
    queue.enqueue("k1", priority=1)
    assert [job.kind for job in queue.claim(["other", "default"], 3)] == ["k1", "k9"]


def test_a_lane_that_was_not_reached_keeps_its_head(conn: Connection, queue: WorkerQueue, past: None) -> None:
    """Claims that a more urgent lane fills do not make the session scan the past again."""
    queue.claim()
    queue.enqueue_many({"kind": "k", "args": n, "priority": 0} for n in range(600))
    for _ in range(3):
        assert len(queue.claim(max_jobs=200)) == 200
    before = read("pgq_waiting_claim", conn)
    assert queue.claim() == []
    assert read("pgq_waiting_claim", conn) - before < 2000 < PAST


def test_a_lane_that_was_not_reached_moves_its_head_in_two_steps_later(
    connect: Connect, queue: WorkerQueue, past: None
) -> None:
    """A job that commits a little late is found, although a more urgent lane has filled the claims in between."""
    queue.claim()
    late = connect(autocommit=False)
    WorkerQueue(late).enqueue("late")
    queue.enqueue_many({"kind": "k", "args": n, "priority": 0} for n in range(600))
    for _ in range(3):
        assert len(queue.claim(max_jobs=200)) == 200
    queue.enqueue_many({"kind": "k", "args": n} for n in range(200))
    assert len(queue.claim(max_jobs=200)) == 200
    late.commit()
    assert [job.kind for job in queue.claim(max_jobs=200)] == ["late"]


def test_jobs_in_a_lane_that_was_not_reached_are_found(queue: WorkerQueue, past: None) -> None:
    """A full batch says nothing about the lanes after its last job."""
    queue.enqueue("low", priority=9)
    queue.conn.execute("SELECT pg_sleep(0.15)")
    queue.enqueue_many({"kind": "k", "args": n} for n in range(600))
    for _ in range(3):
        assert len(queue.claim(max_jobs=200)) == 200
    assert [job.kind for job in queue.claim()] == ["low"]


def test_jobs_in_a_queue_that_was_not_reached_are_found(queue: WorkerQueue, past: None) -> None:
    """A full batch tells nothing about the queues after that of its last job."""
    both = ["default", "other"]
    queue.enqueue("behind", queue="other")
    queue.conn.execute("SELECT pg_sleep(0.15)")
    queue.enqueue_many({"kind": "k", "args": n} for n in range(600))
    for _ in range(3):
        assert len(queue.claim(both, max_jobs=200)) == 200
    assert [job.kind for job in queue.claim(both)] == ["behind"]


@pytest.mark.parametrize("known", [False, True], ids=["unknown head", "known head"])
def test_late_jobs_are_all_found_even_if_they_exceed_one_claim(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None, known: bool
) -> None:
    """The long scan that finds the first of them moves the head back to the others."""
    queue.claim()
    late = connect(autocommit=False)
    Queue(late).enqueue_many({"kind": "late", "args": n} for n in range(500))
    conn.execute("SELECT pg_sleep(0.15)")
    move_on(queue, MANY)
    late.commit()
    if known:
        pass_due(conn)
    else:
        conn.execute("RESET ALL")
    conn.execute("DELETE FROM pgq_head")
    found = [queue.claim(max_jobs=100) for _ in range(6)]
    assert [len(jobs) for jobs in found] == [100, 100, 100, 100, 100, 0]


@pytest.mark.parametrize("forget", ["RESET ALL", "DISCARD ALL"])
def test_a_reset_discards_the_heads(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None, forget: str
) -> None:
    """A session that a pool hands on starts anew."""
    queue.claim()
    back_dated(conn, connect, queue, MANY)
    assert queue.claim() == []
    conn.execute(forget.encode())
    conn.execute("DELETE FROM pgq_head")
    assert [job.kind for job in queue.claim()] == ["left"]


def test_another_installation_has_its_own_heads(conn: Connection, queue: WorkerQueue, past: None) -> None:
    """Heads of two installations differ, in one session and for a queue of the same name."""
    queue.claim()
    move_on(queue, MANY)
    install(conn, schema="other")
    conn.execute("SELECT other.pgq_enqueue('there', ripe_at => now() - interval '1 day')")
    assert [job.kind for job in WorkerQueue(conn, schema="other").claim()] == ["there"]


NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
NINES = "9" * 18


def lanes(*numbers: object, priorities: str = "0,1,2,3,4,5,6,7,8,9") -> str:
    """Return an SQL expression for the text of lanes with these four numbers each."""
    place = ",".join(str(number) for number in numbers)
    return "'" + " {" + ",".join(f'"({priority},{place})"' for priority in priorities.split(",")) + "}'"


FAR = lanes(*[NINES] * 4)
SOON = f"{NOW} + 60000000"
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
    f"{SOON} || ' '",
    f"{SOON} || ' {{'",
    f"{SOON} || ' {{{{{{{{{{{{{{1}}}}}}}}}}}}}}'",
    f"{SOON} || ' {{NULL}}'",
    f"{SOON} || ' {{\"(0,1,2)\"}}'",
    f"{SOON} || {lanes('', '', '', '')}",
    f"{SOON} || {lanes('', 1, '', 1)}",
    f"{SOON} || {lanes('x', 1, 1, 1)}",
    f"{SOON} || {lanes('9' * 20, 1, 1, 1)}",
    f"{SOON} || {lanes(2**63 - 1, 2**63 - 1, 1, 1)}",
    f"{SOON} || {lanes(-(2**63), 1, 1, 1)}",
    f"{SOON} || {lanes(*[f'-{NINES}'] * 4)}",
    f"{SOON} || {lanes(1, 1, 1, 1, priorities='70000')}",
    f"{SOON} || {lanes(*[NINES] * 4, priorities='-1,10,,99')}",
    f"{SOON} || {lanes(1, 1, 1, 1, priorities='4,4,4,4')}",
    f"{2**63 - 1} || {FAR}",
    f"{-(2**63)} || {FAR}",
    f"{NOW} + 601000000 || {FAR}",
    f"'x' || {FAR}",
    "repeat('1 ', 500000) || '1'",
    "repeat('9', 1000000)",
    "E'1\\n2'",
]


@pytest.mark.parametrize("value", GARBAGE)
def test_garbage_in_the_setting_counts_as_no_head(conn: Connection, queue: WorkerQueue, value: str) -> None:
    """It raises no error and hides no job."""
    queue.enqueue("k")
    conn.execute(f"SELECT set_config(%s, {value}, false)".encode(), [setting(conn)])
    assert len(queue.claim()) == 1


@pytest.mark.parametrize("value", [f"{SOON} || ' {{'", f"'x' || {FAR}"])
def test_a_session_with_a_damaged_setting_starts_as_a_new_one(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None, value: str
) -> None:
    """It begins with the heads that others share."""
    queue.claim()
    fresh = WorkerQueue(connect())
    fresh.conn.execute(f"SELECT set_config(%s, {value}, false)".encode(), [setting(conn)])
    queue.enqueue("k")
    before = read("pgq_waiting_claim", fresh.conn, conn)
    assert len(fresh.claim()) == 1
    assert read("pgq_waiting_claim", fresh.conn, conn) - before < 200


def test_a_lane_that_is_named_twice_gives_each_job_once(conn: Connection, queue: WorkerQueue) -> None:
    """A forged setting can make a claim find fewer jobs, but none twice."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(10))
    twice = lanes(1, 1, 1, 1, priorities="5,5,4,4")
    conn.execute(f"SELECT set_config(%s, {SOON} || {twice}, false)".encode(), [setting(conn)])
    claimed = [job.args for _ in range(3) for job in queue.claim(max_jobs=10)]
    assert sorted(claimed) == list(range(10))


def test_a_forged_head_harms_only_the_session_that_set_it(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None
) -> None:
    """A session with a head in the far future finds nothing until its next long scan, and does not share that head."""
    forge = f"SELECT set_config(%s, {NOW} + %s || {FAR}, false)".encode()
    queue.enqueue("k", dedup=False)
    conn.execute(forge, [setting(conn), 100_000_000])
    assert queue.claim() == []
    assert len(WorkerQueue(connect()).claim()) == 1
    conn.execute("DELETE FROM pgq_head")
    conn.execute(forge, [setting(conn), -1])
    queue.enqueue("k", dedup=False)
    assert len(queue.claim()) == 1
    queue.enqueue("k", dedup=False)
    assert len(WorkerQueue(connect()).claim()) == 1


def test_without_statistics_every_scan_counts_as_long(conn: Connection, queue: WorkerQueue, past: None) -> None:
    """With track_counts off no session knows the length of its scan, so each keeps its heads."""
    conn.execute("SET track_counts = off")
    queue.enqueue("k")
    assert len(queue.claim()) == 1
    assert known(conn) == [0, 1, 2, 3, 4, 5]


def sharing(due: str, rescan_delay: str, at: str) -> bytes:
    """Return a statement that shares heads at this time in all lanes of "default" and of the search for leases."""
    return (
        f"INSERT INTO pgq_head SELECT q, {due}, '{rescan_delay}', h "
        "FROM (VALUES ('default'), ('')) AS queue (q) CROSS JOIN ("
        "SELECT array_agg(ROW(p, us, us, us, us)::_pgq_lane_head) "
        f"FROM generate_series(0, 9) AS p CROSS JOIN _pgq_microseconds({at}) AS us) AS l (h)"
    ).encode()


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


@pytest.mark.parametrize(("delay", "shared"), [("19 milliseconds", 0), ("20 milliseconds", 1)])
def test_a_short_scan_is_not_shared(conn: Connection, queue: WorkerQueue, past: None, delay: str, shared: int) -> None:
    """A scan of less than a millisecond costs no write."""
    ration(conn, delay)
    queue.claim()
    assert one(conn, "SELECT count(*) FROM pgq_head WHERE queue = 'default'") == shared


def test_sharing_a_head_waits_for_no_lock(conn: Connection, connect: Connect, past: None) -> None:
    """Two sessions know newer heads than the shared ones, and the first one's transaction stays open."""
    conn.execute(OLD)
    first, second = WorkerQueue(connect()), WorkerQueue(connect())
    second.conn.execute("SET lock_timeout = '2s'")
    with first.conn.transaction():
        first.claim()
        second.claim()
    count = "SELECT count(*) FILTER (WHERE due > now()), count(*) FROM pgq_head WHERE queue = 'default'"
    assert conn.execute(count.encode()).fetchone() == (2, 2)


def test_the_first_claim_of_a_session_leaves_a_scan_to_others(conn: Connection, queue: WorkerQueue) -> None:
    """A session may live for one claim, so it makes a scan that is a little overdue only with its second one."""
    conn.execute("SELECT pgq_enqueue('left', ripe_at => pgq_now() - interval '1 day')")
    conn.execute(sharing("now() - interval '3 minutes'", "1 minute", "now()"))
    assert queue.claim() == []
    assert [job.kind for job in queue.claim()] == ["left"]


def test_heads_that_were_shared_long_ago_are_not_used(conn: Connection, queue: WorkerQueue) -> None:
    """A new session leaves the scan to others for ten times the delay, and then makes it itself."""
    conn.execute("SELECT pgq_enqueue('left', ripe_at => pgq_now() - interval '1 day')")
    conn.execute(OLD)
    assert [job.kind for job in queue.claim()] == ["left"]


def test_a_shared_head_from_the_future_is_ignored(conn: Connection, connect: Connect, queue: WorkerQueue) -> None:
    """It was shared before the server's clock was set back."""
    hour = "now() + interval '1 hour'"
    conn.execute(sharing(hour, "5 minutes", hour))
    queue.enqueue("k")
    assert [job.attempt for job in queue.claim()] == [1]
    expire(conn)
    assert [job.attempt for job in WorkerQueue(connect()).claim()] == [2]


def test_a_shared_head_from_the_future_is_replaced(conn: Connection, queue: WorkerQueue, past: None) -> None:
    """It does not hide newer heads for an hour."""
    conn.execute("INSERT INTO pgq_head VALUES ('default', now() + interval '1 hour', '5 minutes', '{}')")
    queue.claim()
    assert one(conn, "SELECT due < now() + interval '10 minutes' FROM pgq_head WHERE queue = 'default'")


@pytest.mark.parametrize("setting", ["array_nulls", "standard_conforming_strings"])
def test_session_settings_do_not_break_the_heads(
    conn: Connection, queue: WorkerQueue, past: None, setting: str
) -> None:
    """They change how the server reads arrays and strings."""
    conn.execute(f"SET {setting} = off".encode())
    queue.enqueue_many({"kind": "k", "args": n} for n in range(300))
    assert [len(queue.claim(max_jobs=100)) for _ in range(4)] == [100, 100, 100, 0]
    conn.execute("SELECT set_config(_pgq_head_setting('default'), 'd d', false)")
    assert queue.claim() == []


def test_heads_are_shared_at_most_once_a_second(conn: Connection, past: None) -> None:
    """The number of scans does not matter."""
    ration(conn, "20 milliseconds")
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
    assert one(queue.conn, "SELECT count(*) FROM pgq_head") == 0


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
