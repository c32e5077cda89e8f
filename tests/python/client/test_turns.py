"""The groups of a queue take turns, whatever sessions claim from it, and however many jobs or groups there are."""

from __future__ import annotations

import itertools
import threading

import pytest
from support.database import Connect, Connection, flush, one, ration, read
from support.groups import ENTRIES, fill
from support.threads import Thread

# How many jobs of a group have begun when the last group begins its first.
MOST = """
WITH begun AS (
    SELECT token, row_number() OVER (PARTITION BY group_key ORDER BY token) AS n
    FROM pgq_running
)
SELECT max(n) FROM begun WHERE token <= (SELECT max(token) FROM begun WHERE n = 1)
"""


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
