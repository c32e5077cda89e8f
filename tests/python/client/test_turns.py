"""The groups of a queue take turns, whatever sessions claim from it, and however many jobs or groups there are."""

from __future__ import annotations

import itertools
import threading

import pytest
from support.database import Connect, Connection, flush, one, ration, read
from support.threads import Thread

FILL = """
INSERT INTO pgq_waiting (id, queue, kind, args, priority, ripe_at, attempt, dedup, enqueued_at, group_key, group_id)
SELECT nextval('pgq_job_id'), 'default', 'k', to_jsonb(n), 5, now() + %(in)s::interval, 0, false, now(), key,
       CASE WHEN %(in)s::interval > '0' THEN _pgq_room() ELSE _pgq_group_id(key) END
FROM generate_series(1, %(jobs)s) AS n
CROSS JOIN LATERAL (SELECT %(name)s || n %% %(groups)s AS key) AS g
"""
# How many jobs of a group have begun when the last group begins its first.
MOST = """
WITH begun AS (
    SELECT token, row_number() OVER (PARTITION BY group_key ORDER BY token) AS n
    FROM pgq_running
)
SELECT max(n) FROM begun WHERE token <= (SELECT max(token) FROM begun WHERE n = 1)
"""
# How many entries of waiting jobs have been read, in any index.
ENTRIES = "SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname = 'pgq_waiting'"


def fill(conn: Connection, name: str, groups: int, jobs: int, ripe_in: str = "-1 hour") -> None:
    """Let jobs of some groups wait."""
    conn.execute("SELECT _pgq_mark('default')")
    conn.execute(FILL, {"name": name, "groups": groups, "jobs": jobs, "in": ripe_in})


@pytest.mark.parametrize("sessions", [1, 4, 0], ids=["one session", "four", "one for each claim"])
@pytest.mark.parametrize("wanted", [1, 10, 100])
def test_a_large_group_keeps_no_small_one_waiting(
    conn: Connection, connect: Connect, sessions: int, wanted: int
) -> None:
    """Of 20,000 jobs of one group, 300 at most begin before ten jobs of each of ten other groups have."""
    fill(conn, "large", 1, 20000)
    fill(conn, "small", 10, 100)
    claimers = [connect() for _ in range(sessions)]
    for claimer in itertools.cycle(claimers or [None]):
        session = claimer or connect()
        session.execute("SELECT count(*) FROM pgq_claim(max_jobs => %s)", [wanted])
        if claimer is None:
            session.close()
        if one(conn, "SELECT count(*) FROM pgq_waiting WHERE group_key LIKE 'small%'") == 0:
            break
    assert one(conn, "SELECT count(*) FROM pgq_running WHERE group_key LIKE 'large%'") <= 300


@pytest.mark.parametrize("sessions", [1, 6], ids=["one session", "six at the same time"])
@pytest.mark.parametrize(("wanted", "groups"), [(1, 600), (7, 1000), (50, 5000)])
def test_groups_begin_one_after_the_other(
    conn: Connection, connect: Connect, wanted: int, groups: int, sessions: int
) -> None:
    """
    Every group has begun a job before any has begun its third.

    Half of six sessions are new for each claim. Claims at the same time reserve other groups. A lap has so many claims
    that none of them takes as long as a lap.
    """
    fill(conn, "g", groups, groups * 4)
    stop = threading.Event()

    def claim(lives_long: bool) -> None:
        session = connect()
        while not stop.is_set():
            session.execute("SELECT count(*) FROM pgq_claim(max_jobs => %s)", [wanted])
            if not lives_long:
                session.close()
                session = connect()
            if one(session, "SELECT count(DISTINCT group_key) FROM pgq_running") == groups:
                stop.set()

    threads = [Thread(claim, n % 2 == 0) for n in range(sessions)]
    for thread in threads:
        thread.result()
    assert one(conn, MOST) <= 2


@pytest.mark.parametrize("case", ["another queue has the turn", "another session keeps the lock"])
def test_groups_take_turns_all_the_same(conn: Connection, connect: Connect, case: str) -> None:
    """Each of seven claims takes a job of another group. None waits without end for a lock that is kept for ever."""
    fill(conn, "g", 7, 70)
    conn.execute("SET statement_timeout = '20s'")
    if case == "another session keeps the lock":
        connect().execute(
            "SELECT pg_advisory_lock('pgq_turn_0'::regclass::oid::integer, hashtext('default' COLLATE \"C\"))"
        )
    for _ in range(3):
        taken = set()
        for _ in range(7):
            if case == "another queue has the turn":
                conn.execute("SELECT setval(_pgq_turn_sequence('default'), _pgq_turn_value('other', 1))")
            taken.add(one(conn, "SELECT group_key FROM pgq_claim()"))
        assert len(taken) == 7


def test_a_claim_that_takes_less_than_it_has_reserved_returns_the_turn(
    conn: Connection,
) -> None:
    """The groups from which it has taken no job come next."""
    fill(conn, "g", 20, 200)
    # The first groups have no job that is ripe, so the claim goes on, and reserves more groups than it wants jobs.
    conn.execute("SELECT count(*) FROM pgq_claim(max_jobs => 3)")
    conn.execute(
        "UPDATE pgq_waiting SET ripe_at = 'infinity' WHERE group_id IN ("
        "SELECT DISTINCT group_id FROM pgq_waiting WHERE group_id > _pgq_reserved_turn('default') ORDER BY 1 LIMIT 2)"
    )
    conn.execute("SELECT count(*) FROM pgq_claim(max_jobs => 3)")
    begun = one(conn, "SELECT array_agg(DISTINCT _pgq_group_id(group_key)) FROM pgq_running")
    (last,) = conn.execute("SELECT max(_pgq_group_id(group_key)) FROM pgq_running").fetchone() or ()
    assert len(begun) == 6
    assert one(conn, "SELECT _pgq_reserved_turn('default') >> 15 = %s::bigint >> 15", last)


def test_a_claim_does_not_visit_groups_whose_jobs_are_to_be_ripe_later(
    conn: Connection,
) -> None:
    """Many groups have a reminder for next month each."""
    # The entries of jobs that are gone are removed once their transactions are on disk.
    conn.execute("SET synchronous_commit = on")
    fill(conn, "later", 20000, 20000, "1 month")
    fill(conn, "ripe", 10, 1000)
    before = read("pgq_waiting_group", conn)
    claimed = 0
    while claimed < 1000:
        claimed += one(conn, "SELECT count(*) FROM pgq_claim(max_jobs => 10)")
    assert read("pgq_waiting_group", conn) - before < 20000
    assert one(conn, "SELECT pgq_ripe_in()").days > 25


def test_claims_pass_the_waiting_room_by_without_statistics(conn: Connection) -> None:
    """A claim reads none of its jobs, also where no ANALYZE has told the planner of them."""
    conn.execute("ALTER TABLE pgq_waiting SET (autovacuum_enabled = off)")
    jobs = (
        "SELECT count(*) FROM pgq_enqueue_many((SELECT jsonb_agg(jsonb_build_object("
        "'kind', 'k', 'args', n, 'group_key', 'g' || n, 'delay', %s::text)) FROM generate_series(1, %s) AS n))"
    )
    conn.execute(jobs, ["1 day", 20000])
    conn.execute(jobs.replace("'args', n", "'args', -n"), ["0", 1000])
    flush(conn)
    before = one(conn, ENTRIES)
    assert one(conn, "SELECT count(*) FROM pgq_claim(max_jobs => 10)") == 10
    flush(conn)
    assert one(conn, ENTRIES) - before < 1000


def test_a_job_that_becomes_ripe_is_found(conn: Connection) -> None:
    """It leaves the waiting room."""
    conn.execute("SELECT pgq_enqueue('k', group_key => 'a', delay => '0.2 seconds')")
    assert one(conn, "SELECT count(*) FROM pgq_claim()") == 0
    conn.execute("SELECT pg_sleep(extract(epoch FROM pgq_ripe_in()))")
    assert one(conn, "SELECT count(*) FROM pgq_claim()") == 1


@pytest.mark.parametrize("limit", [None, 1], ids=["", "with a limit"])
@pytest.mark.parametrize("groups", [4, 300])
def test_claims_from_groups_stay_short_while_a_snapshot_is_held(
    conn: Connection, connect: Connect, groups: int, limit: int | None
) -> None:
    """They read no more entries at the end than they did at first."""
    ration(conn, "1 minute")
    if limit:
        conn.execute("SELECT pgq_configure('default', '{\"max_per_group\": 50, \"max_running\": 100}')")
    fill(conn, "g", groups, 20000)
    holder = connect(autocommit=False)
    holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    holder.execute("SELECT count(*) FROM pgq_waiting")

    def work(claims: int) -> int:
        before = sum(read(index, conn) for index in ("pgq_waiting_group", "pgq_running_counted"))
        for _ in range(claims):
            conn.execute("SELECT count(pgq_complete(id, token)) FROM pgq_claim(max_jobs => 20)")
        return sum(read(index, conn) for index in ("pgq_waiting_group", "pgq_running_counted")) - before

    work(200)
    first = work(200)
    work(200)
    assert work(200) < 1.3 * first + 2000


def test_jobs_of_all_priorities_are_found_beside_the_heads_of_a_group(conn: Connection, connect: Connect) -> None:
    """A head is known of some lanes only; the lanes before, between and after these have jobs, too."""
    ration(conn, "1 minute")
    holder = connect(autocommit=False)
    holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    holder.execute("SELECT count(*) FROM pgq_waiting")
    claim = "SELECT pgq_complete(id, token), priority FROM pgq_claim(max_jobs => 20)"
    for priority in (4, 6):
        fill(conn, "g", 1, 1000, "0 seconds")
        conn.execute("UPDATE pgq_waiting SET priority = %s", [priority])
        while conn.execute(claim).fetchall():
            pass
    head = one(
        conn,
        "SELECT lanes::text FROM pgq_head WHERE queue ~ E'\\x1f' ORDER BY due DESC LIMIT 1",
    )
    assert "(4," in head
    assert "(6," in head
    conn.execute(
        "SELECT pgq_enqueue('k', to_jsonb(n), group_key => 'g0', priority => n % 10) FROM generate_series(1, 20) AS n"
    )
    assert [row[1] for row in conn.execute(claim)] == [n // 2 for n in range(20)]


def test_what_a_claim_from_empty_groups_reads_does_not_grow(conn: Connection, connect: Connect) -> None:
    """A session remembers the groups in which it has found no job, and passes by the entries of their former jobs."""
    ration(conn, "1 minute")
    holder = connect(autocommit=False)
    holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    holder.execute("SELECT count(*) FROM pgq_waiting")
    drain = "SELECT count(pgq_complete(id, token)) FROM pgq_claim(max_jobs => 100)"

    def work(jobs: int) -> int:
        fill(conn, "g", 50, jobs, "0 seconds")
        while one(conn, drain):
            pass
        flush(conn)
        before = one(conn, ENTRIES)
        for _ in range(5):
            assert one(conn, drain) == 0
        flush(conn)
        read_in_vain: int = one(conn, ENTRIES) - before
        # Jobs that come later are found at once, also in a group that is new.
        fill(conn, "g", 50, 3, "0 seconds")
        fill(conn, "new", 1, 1, "0 seconds")
        assert one(conn, drain) == 4
        return read_in_vain

    work(3000)
    first = work(3000)
    work(3000)
    assert work(3000) < 1.3 * first + 2000


def test_a_group_whose_first_job_is_not_ripe_keeps_its_turn(conn: Connection) -> None:
    """The clock has been set back: the most urgent job of one group lies ahead, and another one of it is ripe."""
    fill(conn, "g", 3, 9)
    # Not the first group of a lap: that one is visited in the longer way.
    conn.execute(
        "UPDATE pgq_waiting SET priority = 0, ripe_at = now() + '1 hour' "
        "WHERE id = (SELECT min(id) FROM pgq_waiting GROUP BY group_id ORDER BY group_id OFFSET 1 LIMIT 1)"
    )
    for _ in range(6):
        assert one(conn, "SELECT count(*) FROM pgq_claim()") == 1
    begun = conn.execute("SELECT count(*) FROM pgq_running GROUP BY group_key").fetchall()
    assert begun == [(2,), (2,), (2,)]


def test_claims_of_one_job_keep_a_list_once_the_way_is_long(conn: Connection, connect: Connect) -> None:
    """Another session holds a snapshot, so the entries of 300 claimed jobs stay."""
    fill(conn, "g", 3, 900)
    holder = connect()
    holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    holder.execute("SELECT count(*) FROM pgq_waiting")
    conn.execute("SELECT count(*) FROM pgq_claim(max_jobs => 600)")
    conn.execute("SELECT setval(_pgq_turn_sequence('default'), _pgq_turn_value('default', 0))")
    session = connect()
    kept = "SELECT coalesce(current_setting(_pgq_groups_setting('default'), true), '')"
    assert one(session, kept) == ""
    assert one(session, "SELECT count(*) FROM pgq_claim()") == 1
    assert one(session, kept) != ""


@pytest.mark.parametrize(
    "value",
    [
        "x",
        "1 2 x",
        "1 2 {1} x",
        "1 2 {{1},{2}}",
        "1 2 {NULL}",
        "1 2 {1} {{1}}",
        "1 2 {1} {NULL}",
        f"{9**99} 2 {{}}",
    ],
)
def test_a_damaged_list_of_groups_counts_as_none(conn: Connection, value: str) -> None:
    """Any role can set it; no claim fails for that."""
    fill(conn, "g", 3, 6)
    conn.execute("SELECT set_config(_pgq_groups_setting('default'), %s, false)", [value])
    assert [one(conn, "SELECT count(*) FROM pgq_claim(max_jobs => %s)", jobs) for jobs in (1, 2)] == [1, 2]


def test_a_session_remembers_a_thousand_idle_groups(conn: Connection) -> None:
    """More of them would make each claim longer."""
    conn.execute("SELECT _pgq_keep_groups('default', '{}', ARRAY(SELECT generate_series(1, 1500)), 0, 0)")
    assert one(conn, "SELECT cardinality(idle) FROM _pgq_known_groups('default', now())") == 1000


def test_many_full_groups_do_not_keep_a_free_one_waiting(conn: Connection) -> None:
    """A session keeps which groups have jobs that it may take."""
    ration(conn, "50 milliseconds")
    conn.execute("SELECT pgq_configure('default', '{\"max_per_group\": 1}')")
    fill(conn, "full", 300, 900)
    assert one(conn, "SELECT count(*) FROM pgq_claim(max_jobs => 300, lease => '1 hour')") == 300
    fill(conn, "free", 1, 200)
    for _ in range(20):
        conn.execute("SELECT pgq_complete(id, token) FROM pgq_claim()")
    before = read("pgq_waiting_group", conn)
    for _ in range(100):
        assert one(conn, "SELECT count(pgq_complete(id, token)) FROM pgq_claim()") == 1
    assert read("pgq_waiting_group", conn) - before < 100 * 40
    # One that becomes free is found.
    conn.execute("SELECT pgq_complete(id, token) FROM pgq_running LIMIT 1")
    taken = set()
    for _ in range(80):
        taken |= {row[0] for row in conn.execute("SELECT group_key FROM pgq_claim()").fetchall()}
        conn.execute("SELECT pg_sleep(0.005)")
    assert any(key.startswith("full") for key in taken)
