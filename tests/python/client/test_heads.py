"""Heads: a claim does not scan the entries of ended jobs, and finds again what its head has passed by mistake."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.database import Connect, Connection, ration, read
from support.heads import PAST, known, pass_due, set_clock_back
from support.threads import eventually

from pgq import Queue, WorkerQueue
from pgq.schema.install import install

pytestmark = pytest.mark.usefixtures("rationed")

MANY, FEW = 200, 5


@pytest.mark.happens("a report holds a snapshot for hours")
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


@pytest.mark.parametrize("is_new", [False, True])
def test_jobs_are_found_after_the_clock_was_set_back(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None, is_new: bool
) -> None:
    """A session that has kept its heads finds a new job at once, and so does a session that begins with shared ones."""
    queue.claim()
    set_clock_back(conn, 240)
    queue.enqueue("k")
    assert [job.kind for job in (WorkerQueue(connect()) if is_new else queue).claim()] == ["k"]


def test_after_the_clock_was_set_back_the_session_scans_once(
    conn: Connection, connect: Connect, queue: WorkerQueue, past: None
) -> None:
    """The jobs that wait fill each claim, and all of them lie to the left of the old head."""
    queue.claim()
    set_clock_back(conn, 240)
    queue.enqueue_many({"kind": "k", "args": n} for n in range(5))
    conn.execute("SELECT pg_sleep(0.15)")
    assert len(queue.claim()) == 1
    before = read("pgq_waiting_claim", conn)
    assert [len(queue.claim()) for _ in range(4)] == [1] * 4
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


def test_jobs_that_a_claim_leaves_for_their_size_are_found_in_order(queue: WorkerQueue, past: None) -> None:
    """A claim that max_bytes cuts tells nothing about the lanes after its last job, and no head passes what it left."""
    both = ["default", "other"]
    queue.enqueue("behind", queue="other", priority=5)
    queue.enqueue("low", priority=9)
    queue.conn.execute("SELECT pg_sleep(0.15)")
    queue.enqueue_many({"kind": "k", "args": [n, "x" * 3000]} for n in range(60))
    claims = []
    while jobs := queue.claim(both, 100, max_bytes=12_000):
        claims.append(jobs)
    assert [len(jobs) for jobs in claims] == [4] * 15 + [2]
    kept = [job.args[0] if job.kind == "k" else job.kind for jobs in claims for job in jobs]
    assert kept == [*range(60), "behind", "low"]


def test_jobs_that_a_claim_leaves_for_their_size_are_no_dead_entries(conn: Connection, queue: WorkerQueue) -> None:
    """Their walk is not a long one: the session keeps no heads, and scans from the start."""
    queue.enqueue_many({"kind": "k", "args": [n, "x" * 3000]} for n in range(1000))
    assert len(queue.claim(max_jobs=1000, max_bytes=10_000)) == 4
    assert known(conn) == []


def test_queues_that_take_turns_lose_no_job_and_keep_their_order(queue: WorkerQueue, past: None) -> None:
    """A head belongs to a queue, not to its place in a claim: claims find each job once, and scan the past once."""
    order = ["default", "other", "third"]
    queue.enqueue_many(
        {"kind": "k", "args": n, "queue": name, "priority": 5 + n % 2} for n in range(200) for name in order
    )
    queue.conn.execute("SELECT pg_sleep(0.15)")
    before = read("pgq_waiting_claim", queue.conn)
    taken: dict[str, list[int]] = {name: [] for name in order}
    while claimed := queue.claim(order, 40):
        for one_ in claimed:
            taken[one_.queue].append(one_.args)
        order.append(order.pop(0))
    assert all(numbers == [*range(0, 200, 2), *range(1, 200, 2)] for numbers in taken.values())
    # Each of the 15 claims may walk over some hundred entries of those before; a scan of the past is 3,000.
    assert read("pgq_waiting_claim", queue.conn) - before < 4 * PAST


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
