"""The setting in which a session keeps its heads: damage is ignored, and a forged head harms no other session."""

from __future__ import annotations

import pytest
from support.database import Connect, Connection, read
from support.heads import known, setting

from pgq import WorkerQueue

pytestmark = pytest.mark.usefixtures("rationed")

NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
NINES = "9" * 18


def lanes(*numbers: object, priorities: str = "0,1,2,3,4,5,6,7,8,9") -> str:
    """Return an SQL expression for the text of lanes with these four numbers each."""
    place = ",".join(str(number) for number in numbers)
    return "'" + " 300000000 {" + ",".join(f'"({priority},{place})"' for priority in priorities.split(",")) + "}'"


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
    f"{SOON} || ' 300000000'",
    f"{SOON} || ' 300000000 '",
    f"{SOON} || ' 300000000 {{'",
    f"{SOON} || ' 300000000 {{{{{{{{{{{{{{1}}}}}}}}}}}}}}'",
    f"{SOON} || ' 300000000 {{NULL}}'",
    f"{SOON} || ' 300000000 {{\"(0,1,2)\"}}'",
    f"{SOON} || ' x {{\"(0,1,2,3,4)\"}}'",
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
    f"{NOW} + 301000000 || {FAR}",
    f"{NOW} + 601000000 || replace({FAR}, '300000000', '{NINES}')",
    f"{SOON} || replace({FAR}, '300000000', '-300000000')",
    f"{SOON} || replace({FAR}, '300000000 ', '')",
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


@pytest.mark.parametrize("value", [f"{SOON} || ' 1 {{'", f"'x' || {FAR}"])
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


@pytest.mark.parametrize("name", ["array_nulls", "standard_conforming_strings"])
def test_session_settings_do_not_break_the_heads(conn: Connection, queue: WorkerQueue, past: None, name: str) -> None:
    """They change how the server reads arrays and strings."""
    conn.execute(f"SET {name} = off".encode())
    queue.enqueue_many({"kind": "k", "args": n} for n in range(300))
    assert [len(queue.claim(max_jobs=100)) for _ in range(4)] == [100, 100, 100, 0]
    conn.execute("SELECT set_config(_pgq_head_setting('default'), 'd d', false)")
    assert queue.claim() == []
