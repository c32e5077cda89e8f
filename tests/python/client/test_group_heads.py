"""Heads of groups: what a claim or a look reads of a group does not grow with the jobs of it that are gone."""

from __future__ import annotations

import pytest
from support.database import Connect, Connection, flush, one, ration, read
from support.groups import ENTRIES, fill


@pytest.mark.parametrize("limit", [None, 1], ids=["", "with a limit"])
@pytest.mark.parametrize("groups", [4, 300])
@pytest.mark.happens("a report holds a snapshot for hours")
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
        # No head passes a job that is younger than a second, and a head moves in two steps.
        conn.execute("SELECT pg_sleep(1.1)")
        for _ in range(2):
            assert one(conn, drain) == 0
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


@pytest.mark.parametrize("look", ["SELECT pgq_ripe_in()", "SELECT count(*) FROM pgq_remaining()"])
def test_what_a_look_for_the_next_job_of_groups_reads_does_not_grow(
    conn: Connection, connect: Connect, look: str
) -> None:
    """A worker looks before it sleeps."""
    ration(conn, "1 minute")
    holder = connect(autocommit=False)
    holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    holder.execute("SELECT count(*) FROM pgq_waiting")

    def work() -> int:
        fill(conn, "g", 10, 3000, "0 seconds")
        while one(conn, "SELECT count(*) FROM pgq_waiting") > 100:
            conn.execute("SELECT count(pgq_complete(id, token)) FROM pgq_claim(max_jobs => 100)")
        flush(conn)
        before = one(conn, ENTRIES)
        conn.execute(look.encode())
        flush(conn)
        entries: int = one(conn, ENTRIES) - before
        return entries

    work()
    first = work()
    work()
    assert work() < 1.3 * first + 300


def test_a_group_is_visited_from_the_start_as_rarely_as_that_takes_long(conn: Connection, connect: Connect) -> None:
    """What the visit reads is not taken for a part of what the visits of the other groups read."""
    conn.execute(
        "CREATE OR REPLACE FUNCTION _pgq_rescan_delay(entries bigint) RETURNS interval "
        "LANGUAGE sql IMMUTABLE RETURN greatest(entries, 60000) * interval '1 millisecond'"
    )
    holder = connect(autocommit=False)
    holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    holder.execute("SELECT count(*) FROM pgq_waiting")
    fill(conn, "g", 10, 6000)
    claim = "SELECT count(pgq_complete(id, token)) FROM pgq_claim(max_jobs => 100)"
    for _ in range(50):
        conn.execute(claim)
    due = (
        "(SELECT ctid FROM pgq_head WHERE queue = _pgq_group_head('default', _pgq_group_id('g1')) "
        "ORDER BY due DESC LIMIT 1)"
    )
    conn.execute(f"UPDATE pgq_head SET due = clock_timestamp() WHERE ctid = {due}".encode())
    conn.execute(claim)
    # Its 500 entries, 20 times for each of the ten groups and for the jobs without a group.
    assert one(conn, f"SELECT rescan_delay > interval '105 s' FROM pgq_head WHERE ctid = {due}")
