"""Bare claims: what a session has just found out, it does not look up again, and it claims what all claims do."""

from __future__ import annotations

import random

import pytest
from support.database import Connect, Connection, expire, flush, one, ration, read
from support.heads import PAST, known, leave_past, setting
from support.threads import eventually

from pgq import WorkerQueue

pytestmark = pytest.mark.usefixtures("rationed")

AHEAD = "SELECT set_config(%s, _pgq_digest(%s) || ' ' || _pgq_microseconds(now() + %s * interval '1 s'), false)"


def is_bare(conn: Connection, *queues: str) -> bool:
    """Return whether the session's next claim from these queues, or from "default", is bare."""
    digest = "_pgq_digest(%s)"
    return bool(one(conn, f"SELECT _pgq_is_bare({digest}, _pgq_microseconds(pgq_now()))", list(queues or ("default",))))


def keep(conn: Connection, *queues: str, seconds: float) -> None:
    """Make the claims of a session from these queues bare for so long."""
    conn.execute(AHEAD.encode(), [one(conn, "SELECT _pgq_bare_setting()"), list(queues), seconds])


def scans(conn: Connection) -> int:
    """Return how often the claim index was scanned, by a session that alone uses it."""
    flush(conn)
    return int(one(conn, "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'pgq_waiting_claim'"))


def test_the_claim_after_one_that_finds_nothing_to_do_is_bare(conn: Connection, queue: WorkerQueue) -> None:
    """For the same queues, in each order, and for no others."""
    queue.claim(["a", "b"])
    assert is_bare(conn, "a", "b")
    assert is_bare(conn, "b", "a")
    assert not is_bare(conn, "a")
    assert not is_bare(conn, "a", "c")
    assert not is_bare(conn, "a", "b", "b", "b")


def test_a_queue_that_is_named_twice_is_scanned_once(conn: Connection, queue: WorkerQueue) -> None:
    """Its jobs do not count twice, so the claim goes on with the next queue."""
    names = ["a", "a", "b"]
    queue.claim(names)
    assert not is_bare(conn, *names)
    queue.enqueue_many({"kind": "k", "args": n, "queue": name} for name in ("a", "b") for n in range(3))
    assert len(queue.claim(names, max_jobs=6)) == 6


def test_maintenance_is_not_put_off(conn: Connection, queue: WorkerQueue) -> None:
    """A claim is bare until the next search for expired leases at most."""
    ration(conn, "300 milliseconds")
    queue.enqueue("k", backoff="0")
    queue.claim()
    assert is_bare(conn)
    expire(conn)
    assert queue.claim() == []
    assert [job.attempt for job in eventually(queue.claim, "the expired job is claimed", 3)] == [2]


def test_after_fifty_rescues_the_next_claim_is_not_bare(conn: Connection, queue: WorkerQueue) -> None:
    """It goes on with the rescue."""
    queue.enqueue_many({"kind": "k", "args": n, "backoff": "1 hour"} for n in range(60))
    queue.claim(max_jobs=60)
    conn.execute("UPDATE pgq_running SET lease_until = clock_timestamp() - interval '1 s', attempt = 2")
    conn.execute("SELECT set_config(_pgq_head_setting(''), '', false), set_config(_pgq_bare_setting(), '', false)")
    queue.claim()
    assert not is_bare(conn)
    queue.claim()
    assert one(conn, "SELECT count(*) FROM pgq_running") == 0


def test_a_long_walk_ends_it(conn: Connection, queue: WorkerQueue, snapshot: None) -> None:
    """The session then keeps heads, and walks over the dead entries once."""
    queue.claim()
    leave_past(conn)
    assert is_bare(conn)
    queue.claim()
    assert not is_bare(conn)
    assert known(conn) == list(range(10))
    before = read("pgq_waiting_claim", conn)
    queue.claim()
    assert read("pgq_waiting_claim", conn) - before < 200


def test_a_claim_from_another_queue_begins_at_its_head(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None
) -> None:
    """That nothing is to be done for one queue says nothing about another one."""
    queue.claim()
    fresh = WorkerQueue(connect())
    fresh.claim(["other"])
    before = read("pgq_waiting_claim", fresh.conn, conn)
    fresh.claim()
    assert read("pgq_waiting_claim", fresh.conn, conn) - before < 200 < PAST


def test_a_session_that_keeps_heads_makes_no_bare_claim(conn: Connection, queue: WorkerQueue, past: None) -> None:
    queue.claim()
    queue.claim()
    assert known(conn) == list(range(10))
    assert not is_bare(conn)


def test_a_claim_that_rolls_back_restores_what_was_known(conn: Connection, queue: WorkerQueue) -> None:
    with conn.transaction(force_rollback=True):
        queue.claim()
        assert is_bare(conn)
    assert not is_bare(conn)


def test_after_the_clock_was_set_back_no_claim_is_bare(conn: Connection, queue: WorkerQueue) -> None:
    """What lies more than ten seconds ahead was kept before, or is forged."""
    keep(conn, "default", seconds=9)
    assert is_bare(conn)
    keep(conn, "default", seconds=11)
    assert not is_bare(conn)
    keep(conn, "default", seconds=-1)
    assert not is_bare(conn)


@pytest.mark.parametrize("value", ["", " ", "1", "x 1", "'\\{", "9" * 40, "1 2 3 4", "\u20ac", "1 " * 100_000])
def test_garbage_in_the_setting_is_ignored(conn: Connection, queue: WorkerQueue, value: str) -> None:
    """It raises no error and hides no job."""
    queue.enqueue("k")
    for text in (value, one(conn, "SELECT _pgq_digest('{default}')") + " " + value):
        conn.execute("SELECT set_config(_pgq_bare_setting(), %s, false)", [text])
        assert not is_bare(conn)
    assert len(queue.claim()) == 1


def test_a_forged_setting_hides_no_job(conn: Connection, queue: WorkerQueue, past: None) -> None:
    """The session that set it scans from the start."""
    queue.enqueue("k")
    keep(conn, "default", seconds=9)
    assert len(queue.claim()) == 1


QUEUES = ["c", "a", "b"]


def fill(queue: WorkerQueue) -> list[tuple[str, int, int]]:
    """Enqueue jobs of several priorities in three queues, and others that are not ripe; return the order of claims."""
    expected = []
    for priority in (0, 3, 5, 9):
        for name in QUEUES:
            if (priority, name) in ((0, "c"), (5, "a")):
                queue.enqueue("later", queue=name, priority=priority, delay="1 day", dedup=False)
                continue
            for n in range(2):
                queue.enqueue("k", n, queue=name, priority=priority, dedup=False)
                expected.append((name, priority, n))
    return expected


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("bare", [False, True])
def test_jobs_come_by_priority_then_queue_then_time(
    conn: Connection, queue: WorkerQueue, bare: bool, batch: int
) -> None:
    """Whichever way the lanes are found, across lanes that are empty, and lanes in which no job is ripe."""
    expected = fill(queue)
    queue.claim(QUEUES, 0)
    claimed = []
    while True:
        if bare:
            keep(conn, *QUEUES, seconds=9)
        else:
            conn.execute("SELECT set_config(_pgq_bare_setting(), '', false)")
        jobs = queue.claim(QUEUES, batch)
        claimed += [(job.queue, job.priority, job.args) for job in sorted(jobs, key=lambda job: job.priority)]
        if not jobs:
            break
    assert sorted(claimed) == sorted(expected)
    assert [priority for _, priority, _ in claimed] == [priority for _, priority, _ in expected]
    if batch == 1:
        assert claimed == expected


@pytest.mark.parametrize("seed", range(20))
def test_each_claim_takes_the_first_jobs_that_are_ripe_and_free(
    conn: Connection, connect: Connect, queue: WorkerQueue, seed: int
) -> None:
    """By priority, then by queue in the order given, then by age; and where the first look ends early."""
    chance = random.Random(seed)
    names = [f"queue {n}" for n in range(6)]
    expected = []
    for n in range(30):
        number, priority = chance.randrange(6), chance.choice((0, 5, 9))
        kind = chance.choice(("free", "free", "locked", "later"))
        delay = "1 day" if kind == "later" else None
        queue.enqueue(kind, n, queue=names[number], priority=priority, delay=delay)
        if kind == "free":
            expected.append((priority, number, n))
    other = connect(autocommit=False)
    other.execute("SELECT FROM pgq_waiting WHERE kind = 'locked' FOR UPDATE")
    expected.sort()
    while expected:
        size = chance.choice((1, 2, 3, 5, 8))
        keep(conn, *names, seconds=9)
        claimed = [(job.priority, names.index(job.queue), job.args) for job in queue.claim(names, size)]
        assert sorted(claimed) == expected[:size]
        del expected[:size]
    keep(conn, *names, seconds=9)
    assert queue.claim(names) == []


def test_a_job_that_another_session_has_locked_is_skipped(
    conn: Connection, connect: Connect, queue: WorkerQueue
) -> None:
    """Also where it is the first entry of its lane."""
    queue.enqueue("locked", queue="a")
    queue.enqueue("free", queue="a")
    queue.enqueue("lower", queue="b", priority=9)
    keep(conn, "a", "b", seconds=9)
    other = connect(autocommit=False)
    other.execute("SELECT FROM pgq_waiting WHERE kind = 'locked' FOR UPDATE")
    assert [job.kind for job in queue.claim(["a", "b"], 10)] == ["free", "lower"]


def test_a_bare_claim_ends_at_max_bytes_and_before_a_suspect(conn: Connection, queue: WorkerQueue) -> None:
    queue.enqueue_many({"kind": "k", "args": [n, "x" * 3000], "queue": "a"} for n in range(3))
    queue.enqueue("suspect", queue="b")
    queue.enqueue("behind", queue="b")
    conn.execute("UPDATE pgq_waiting SET losses = 1 WHERE kind = 'suspect'")
    keep(conn, "a", "b", seconds=9)
    sizes = []
    while jobs := queue.claim(["a", "b"], 100, max_bytes=6000):
        sizes.append([job.kind for job in jobs])
    assert sizes == [["k", "k"], ["k"], ["suspect"], ["behind"]]


@pytest.mark.parametrize("bare", [False, True])
def test_a_claim_from_many_queues_looks_once_in_each(conn: Connection, queue: WorkerQueue, bare: bool) -> None:
    """Not once for each priority; and it finds a job in the last one."""
    names = [f"queue {n}" for n in range(500)]
    queue.enqueue("k", queue=names[-1])
    if bare:
        keep(conn, *names, seconds=9)
    before = scans(conn)
    assert len(queue.claim(names)) == 1
    assert scans(conn) - before < 600
    before = scans(conn)
    queue.ripe_in(names)
    assert scans(conn) - before < 600


def test_shared_heads_of_many_queues_are_found(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None
) -> None:
    """The look at all of them at once misses none, nor one that the session keeps itself."""
    names = ["a", "b", "default", "c"]
    queue.claim(names)
    assert known(conn) == list(range(10))
    fresh = WorkerQueue(connect())
    for session in (fresh, queue):
        before = read("pgq_waiting_claim", fresh.conn, conn)
        assert session.claim(names) == []
        assert session.ripe_in(names) is None
        assert read("pgq_waiting_claim", fresh.conn, conn) - before < 200
    conn.execute("DELETE FROM pgq_head")
    assert one(conn, "SELECT current_setting(%s, true)", setting(conn)) != ""
    before = read("pgq_waiting_claim", fresh.conn, conn)
    assert queue.claim(names) == []
    assert read("pgq_waiting_claim", fresh.conn, conn) - before < 200
