"""Jobs that run after others, beside other sessions: none is unblocked twice or forgotten, and none waits for long."""

from __future__ import annotations

import contextlib
import random
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql
from support.database import Connect, Connection, one, read, waits_for_lock
from support.threads import Thread, eventually

from pgq import Job, NewJob, Queue, WorkerQueue
from pgq.new_job import AfterFailed

ADD = "SELECT id FROM pgq_enqueue('k', to_jsonb(%s::bigint), 'q', after => %s::bigint[])"
STATES = "SELECT state FROM pgq_jobs WHERE id = %s"


def add(conn: Connection, *after: int) -> int:
    """Enqueue a job after others, and return its id."""
    return int(one(conn, ADD, random.getrandbits(60), list(after)))


def claim(conn: Connection, count: int) -> list[Job]:
    """Claim jobs one by one, so that none is packed."""
    return [job for _ in range(count) for job in WorkerQueue(conn).claim(queues=["q"], max_jobs=1)]


def maintain(conn: Connection) -> None:
    """Do what claims do once a second for blocked jobs."""
    conn.execute("SELECT _pgq_settle_blocked(pgq_now())")


@pytest.mark.happens("two last prerequisites end at once")
def test_of_two_last_prerequisites_at_once_the_later_one_unblocks_the_job(conn: Connection, connect: Connect) -> None:
    """It waits for the transaction of the other one, and then sees what that has removed."""
    ids = [add(conn), add(conn)]
    last = add(conn, *ids)
    first, second = claim(conn, 2)
    a, b = connect(autocommit=False), connect()
    # Longer than the test may take to commit.
    conn.execute("ALTER FUNCTION _pgq_settle_needs SET lock_timeout = '1min'")
    WorkerQueue(a).complete(first)
    thread = Thread(WorkerQueue(b).complete, second)
    eventually(lambda: waits_for_lock(conn, b), "the second completion waits for the first")
    a.commit()
    thread.result()
    assert one(conn, STATES, last) == "waiting"
    assert one(conn, "SELECT count(*) FROM pgq_need_ended") == 0


@pytest.mark.happens("two last prerequisites end at once")
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_completion_does_not_wait_for_a_transaction_that_stays_open(
    conn: Connection, connect: Connect, ending: str
) -> None:
    """It leaves the job to maintenance, which unblocks it once all is over."""
    ids = [add(conn), add(conn)]
    last = add(conn, *ids)
    first, second = claim(conn, 2)
    a = connect(autocommit=False)
    WorkerQueue(a).complete(first)
    WorkerQueue(conn).complete(second)
    maintain(conn)
    assert one(conn, STATES, last) == "blocked"
    getattr(a, ending)()
    maintain(conn)
    assert one(conn, STATES, last) == ("waiting" if ending == "commit" else "blocked")
    if ending == "rollback":
        WorkerQueue(conn).complete(first)
        assert one(conn, STATES, last) == "waiting"
    assert one(conn, "SELECT count(*) FROM pgq_need_ended") == 0


def test_a_job_that_is_locked_keeps_no_other_one_blocked(conn: Connection, connect: Connect) -> None:
    """Maintenance unblocks what it can, one by one."""
    (first,) = [add(conn)]
    blocked = [add(conn, first) for _ in range(5)]
    producer = connect(autocommit=False)
    producer.execute("SELECT FROM pgq_blocked WHERE id = %s FOR KEY SHARE", [blocked[2]])
    WorkerQueue(conn).complete(*claim(conn, 1))

    def others_are_unblocked() -> bool:
        maintain(conn)
        return bool(one(conn, "SELECT count(*) FROM pgq_waiting") == 4)

    eventually(others_are_unblocked)
    assert one(conn, STATES, blocked[2]) == "blocked"
    producer.rollback()
    maintain(conn)
    assert one(conn, "SELECT count(*) FROM pgq_waiting") == 5


def test_a_duplicate_keeps_its_blocked_twin_from_starting(conn: Connection, connect: Connect) -> None:
    """Its handler sees what the transaction of the duplicate has written."""
    first = add(conn)
    twin = Queue(conn).enqueue("twin", queue="q", after=[first])
    producer = connect(autocommit=False)
    assert Queue(producer).enqueue("twin", queue="q", after=[first]) == (twin.id, False)
    WorkerQueue(conn).complete(*claim(conn, 1))
    assert one(conn, STATES, twin.id) == "blocked"
    producer.commit()
    maintain(conn)
    assert one(conn, STATES, twin.id) == "waiting"


@pytest.mark.happens("a job ends while another is enqueued after it")
def test_a_job_may_end_before_the_one_after_it_is_committed(conn: Connection, connect: Connect) -> None:
    """Neither transaction sees the other; maintenance finds that the need is over."""
    first = add(conn)
    (job,) = claim(conn, 1)
    producer = connect(autocommit=False)
    last = add(producer, first)
    WorkerQueue(conn).complete(job)
    producer.commit()
    assert one(conn, STATES, last) == "blocked"
    maintain(conn)
    assert one(conn, STATES, last) == "waiting"


def test_a_job_may_merge_before_the_one_after_it_is_committed(conn: Connection, connect: Connect) -> None:
    """The one after it then waits for the twin, and not only until the merge."""
    queue = WorkerQueue(conn)
    first = queue.enqueue("k", queue="q", dedup_key="x")
    (job,) = claim(conn, 1)
    queue.enqueue("k", queue="q", dedup_key="x")
    producer = connect(autocommit=False)
    last = add(producer, first.id)
    assert queue.release(job) == "merged"
    producer.commit()
    maintain(conn)
    assert one(conn, STATES, last) == "blocked"
    (twin,) = claim(conn, 1)
    queue.complete(twin)
    assert one(conn, STATES, last) == "waiting"
    conn.execute("SELECT _pgq_delete_lost_signals()")
    assert one(conn, "SELECT count(*) FROM pgq_merged") == 0


@pytest.mark.happens("a job ends while another is enqueued after it")
def test_a_job_may_be_enqueued_before_the_end_of_the_first_is_committed(conn: Connection, connect: Connect) -> None:
    """Maintenance does not take what is not committed for an end."""
    first = add(conn)
    (job,) = claim(conn, 1)
    worker = connect(autocommit=False)
    WorkerQueue(worker).complete(job)
    last = add(conn, first)
    maintain(conn)
    assert one(conn, STATES, last) == "blocked"
    worker.commit()
    maintain(conn)
    assert one(conn, STATES, last) == "waiting"


@pytest.mark.parametrize(
    "level",
    [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE],
)
def test_a_completion_with_an_old_snapshot_leaves_the_rest_to_maintenance(
    conn: Connection, connect: Connect, level: psycopg.IsolationLevel
) -> None:
    """It does not see what others remove meanwhile, and must not fail because of it."""
    ids = [add(conn), add(conn)]
    last = add(conn, *ids)
    first, second = claim(conn, 2)
    strict = connect(autocommit=False)
    strict.isolation_level = level
    strict.execute("SELECT count(*) FROM pgq_need")
    WorkerQueue(conn).complete(first)
    WorkerQueue(strict).complete(second)
    strict.commit()
    assert one(conn, STATES, last) == "blocked"
    maintain(conn)
    assert one(conn, STATES, last) == "waiting"


def test_an_unblocked_job_wakes_a_sleeping_session(conn: Connection, connect: Connect) -> None:
    """It does so when the transaction that unblocks it commits."""
    add(conn, add(conn))
    jobs = claim(conn, 1)
    sleeper = connect()
    channel = one(sleeper, "SELECT pgq_idle('{q}')")
    sleeper.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    WorkerQueue(conn).complete(*jobs)
    assert [notify.channel for notify in sleeper.notifies(timeout=30, stop_after=1)] == [channel]


def test_the_sequence_is_not_reset_while_an_enqueue_is_open(conn: Connection, connect: Connect) -> None:
    """Otherwise the end of its prerequisite would not look for it."""
    first = add(conn)
    producer = connect(autocommit=False)
    last = add(producer, first)
    maintain(conn)
    assert one(conn, "SELECT _pgq_has_needs()")
    producer.commit()
    WorkerQueue(conn).complete(*claim(conn, 1))
    assert one(conn, STATES, last) == "waiting"
    maintain(conn)
    assert not one(conn, "SELECT _pgq_has_needs()")


def test_a_rollback_after_the_last_need_leaves_no_job_blocked(conn: Connection) -> None:
    """A worker may be killed while it completes the last prerequisite, in the transaction that maintains, too."""
    last = add(conn, add(conn))
    jobs = claim(conn, 1)
    with conn.transaction(force_rollback=True):
        WorkerQueue(conn).complete(*jobs)
        maintain(conn)
    WorkerQueue(conn).complete(*jobs)
    assert one(conn, STATES, last) == "waiting"


@pytest.mark.happens("two last prerequisites end at once")
@pytest.mark.parametrize("pairs", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_eight_sessions_unblock_each_of_many_jobs_once(
    conn: Connection, connect: Connect, pool: ThreadPoolExecutor, pairs: int
) -> None:
    """Each job has two prerequisites, which end at about the same time in two sessions."""
    graph: list[NewJob] = [
        {"kind": "k", "queue": f"q{half}", "args": n, "dedup": False} for n in range(pairs) for half in range(2)
    ]
    graph += [{"kind": "last", "args": n, "after": [f"#{2 * n + 1}", f"#{2 * n + 2}"]} for n in range(pairs)]
    Queue(conn).enqueue_many(graph)
    conn.execute(
        "CREATE TABLE seen (id bigint); "
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO public.seen VALUES (new.id); RETURN NULL; END$$; "
        "CREATE TRIGGER see AFTER INSERT ON pgq_waiting FOR EACH ROW EXECUTE FUNCTION see()"
    )

    def drain(queue: str) -> None:
        with contextlib.closing(connect()) as session:
            worker = WorkerQueue(session)
            while jobs := worker.claim(queues=[queue], max_jobs=1):
                worker.complete(*jobs)

    for done in [pool.submit(drain, f"q{n % 2}") for n in range(8)]:
        done.result()
    lost = (
        "SELECT count(*) FROM pgq_blocked AS b WHERE NOT EXISTS (SELECT FROM pgq_need AS n "
        "JOIN pgq_need_ended AS e ON e.id = n.needs WHERE n.job = b.id)"
    )
    assert one(conn, lost) == 0

    def none_is_blocked() -> bool:
        maintain(conn)
        return bool(one(conn, "SELECT count(*) FROM pgq_blocked") == 0)

    eventually(none_is_blocked)
    assert one(conn, "SELECT count(*) FROM pgq_waiting WHERE kind = 'last'") == pairs
    assert one(conn, "SELECT count(*) FROM seen") == pairs


@pytest.mark.happens("two last prerequisites end at once")
@pytest.mark.parametrize("ends", ["done", "dead"])
@pytest.mark.parametrize("diamonds", [60, pytest.param(3_000, marks=pytest.mark.slow)])
def test_eight_sessions_race_at_the_ends_of_many_diamonds(
    conn: Connection, connect: Connect, pool: ThreadPoolExecutor, diamonds: int, ends: str
) -> None:
    """Of each, two sides end at about the same time in two sessions; three jobs after both differ in after_failed."""
    policies: list[AfterFailed] = ["cancel", "run", "wait"]
    graph: list[NewJob] = []
    for n in range(diamonds):
        top = len(graph) + 1
        jobs: list[NewJob] = [{"kind": "top", "queue": "q0"}]
        jobs += [{"kind": "side", "queue": f"q{side}", "after": [f"#{top}"]} for side in range(2)]
        jobs += [{"kind": last, "after": [f"#{top + 1}", f"#{top + 2}"], "after_failed": last} for last in policies]
        jobs += [{"kind": "tail", "after": [f"#{top + 3}"], "after_failed": "cancel"}]
        graph += [job | {"args": n, "dedup": False} for job in jobs]
    Queue(conn).enqueue_many(graph)
    conn.execute(
        "CREATE TABLE seen (id bigint); "
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO public.seen VALUES (new.id); RETURN NULL; END$$; "
        "CREATE TRIGGER see AFTER INSERT ON pgq_waiting FOR EACH ROW EXECUTE FUNCTION see(); "
        "CREATE TRIGGER see AFTER INSERT ON pgq_ended FOR EACH ROW WHEN (new.kind <> 'side') EXECUTE FUNCTION see()"
    )

    def drain(queue: str) -> None:
        with contextlib.closing(connect()) as session:
            worker = WorkerQueue(session)
            while jobs := worker.claim(queues=[queue], max_jobs=1):
                if jobs[0].kind == "side" and ends == "dead":
                    worker.fail(jobs[0], "no", retry=False)
                else:
                    worker.complete(*jobs)

    def sides_have_ended() -> bool:
        for done in [pool.submit(drain, f"q{n % 2}") for n in range(8)]:
            done.result()
        maintain(conn)
        left = "SELECT count(*) FROM pgq_jobs WHERE kind IN ('top', 'side') AND state IN ('blocked', 'waiting')"
        return bool(one(conn, left) == 0)

    eventually(sides_have_ended, seconds=600)

    def no_note_is_left() -> bool:
        maintain(conn)
        return bool(one(conn, "SELECT count(*) FROM pgq_need_ended") == 0)

    eventually(no_note_is_left)
    states = "SELECT DISTINCT state FROM pgq_jobs WHERE kind = %s"
    expected = (
        {"cancel": "cancelled", "run": "waiting", "wait": "blocked", "tail": "cancelled"}
        if ends == "dead"
        else {"cancel": "waiting", "run": "waiting", "wait": "waiting", "tail": "blocked"}
    )
    assert {kind: conn.execute(states, [kind]).fetchall() for kind in expected} == {
        kind: [(state,)] for kind, state in expected.items()
    }
    assert one(conn, "SELECT count(*) - count(DISTINCT id) FROM seen") == 0


@pytest.mark.happens("a prerequisite is dead or cancelled")
def test_a_cancelled_chain_of_ten_thousand_ends_in_bounded_steps(
    conn: Connection,
) -> None:
    """A call deals with a thousand, and so does each step of maintenance, once a second."""
    length, steps = 10_000, 0
    chain: list[NewJob] = [{"kind": "k", "args": n, "after": [f"#{n}"] if n else None} for n in range(length)]
    first = Queue(conn).enqueue_many(chain)[0]
    Queue(conn).cancel(first.id)
    left = one(conn, "SELECT count(*) FROM pgq_blocked")
    assert left == length - 1001
    while left:
        maintain(conn)
        left, before = one(conn, "SELECT count(*) FROM pgq_blocked"), left
        assert 0 < before - left <= 1500
        steps += 1
    assert steps < 10


def test_a_locked_job_is_left_when_what_it_waits_for_is_cancelled(conn: Connection, connect: Connect) -> None:
    """The call does not wait for it; maintenance cancels it later, and what is behind it."""
    ids = [add(conn)]
    for _ in range(5):
        ids.append(add(conn, ids[-1]))
    beside = add(conn, ids[1])
    conn.execute("ALTER FUNCTION _pgq_settle_needs SET lock_timeout = '1min'")
    producer = connect(autocommit=False)
    producer.execute("SELECT FROM pgq_blocked WHERE id = %s FOR KEY SHARE", [ids[3]])
    conn.execute("SET statement_timeout = '30s'")
    Queue(conn).cancel(ids[0])
    states = "SELECT array_agg(state ORDER BY id) FROM pgq_jobs"
    assert one(conn, states) == ["cancelled"] * 3 + ["blocked"] * 3 + ["cancelled"]
    assert one(conn, STATES, beside) == "cancelled"
    producer.rollback()
    maintain(conn)
    assert one(conn, states) == ["cancelled"] * 7
    assert one(conn, "SELECT count(*) FROM pgq_need_ended") == 0


@pytest.mark.parametrize("seed", range(12))
def test_of_a_random_graph_that_is_cancelled_which_has_to_be(conn: Connection, seed: int) -> None:
    """Of the first jobs some fail; all others are then in the state that the rules for prerequisites give them."""
    dice = random.Random(seed)
    firsts, count = 8, 80
    graph: list[NewJob] = [{"kind": "first", "queue": "q", "args": n} for n in range(firsts)]
    policies: list[AfterFailed] = ["cancel"] * dice.randint(1, 9)
    policies += ["run", "wait"]
    needs: dict[int, list[int]] = {}
    for n in range(firsts, count):
        needs[n] = sorted({dice.randrange(max(0, n - 12), n) for _ in range(dice.randint(1, 3))})
        graph.append(
            {
                "kind": "k",
                "args": n,
                "dedup": dice.random() < 0.5,
                "after": [f"#{need + 1}" for need in needs[n]],
                "after_failed": dice.choice(policies),
            }
        )
    ids = [job.id for job in Queue(conn).enqueue_many(graph)]
    states = {}
    for job in claim(conn, firsts):
        n = ids.index(job.id)
        if dice.random() < 0.5:
            WorkerQueue(conn).fail(job, "no", retry=False)
            states[n] = "dead"
        else:
            WorkerQueue(conn).complete(job, result=1)
            states[n] = "done"
    for n in range(firsts, count):
        failed = any(states[need] in ("dead", "cancelled") for need in needs[n])
        alive = any(states[need] in ("waiting", "blocked") for need in needs[n])
        policy = graph[n]["after_failed"]
        if failed and policy == "cancel":
            states[n] = "cancelled"
        else:
            states[n] = "blocked" if alive or (failed and policy == "wait") else "waiting"
    for _ in range(5):
        maintain(conn)
    found: dict[int, str] = dict(conn.execute("SELECT id, state FROM pgq_jobs").fetchall())
    assert {n: found[ids[n]] for n in range(count)} == states
    assert one(conn, "SELECT count(*) FROM pgq_need_ended") == 0


def test_ten_thousand_jobs_are_unblocked_by_one_and_unblock_one(
    conn: Connection,
) -> None:
    """A fan in both directions; one of the ten thousand fails, and the last job runs all the same."""
    count = 10_000
    graph: list[NewJob] = [{"kind": "first", "queue": "q"}]
    graph += [{"kind": "middle", "queue": "q", "args": n, "after": ["#1"], "max_retries": 0} for n in range(count)]
    graph += [{"kind": "last", "queue": "q", "after": [f"#{n + 2}" for n in range(count)], "after_failed": "run"}]
    *_, last = Queue(conn).enqueue_many(graph)
    worker = WorkerQueue(conn)
    worker.complete(*worker.claim(queues=["q"]))
    worked = 0
    while worked < count:
        jobs = worker.claim(queues=["q"], max_jobs=1000)
        if worked == 0:
            worker.fail(jobs.pop(), "no")
            worked += 1
        worker.complete_many(jobs)
        worked += len(jobs)
        maintain(conn)
    assert [job.id for job in worker.claim(queues=["q"], max_jobs=10)] == [last.id]


def test_maintenance_does_not_read_all_jobs_that_wait_for_a_retry(conn: Connection) -> None:
    """They may be many, and stay until an operator comes: most looks read some of them."""
    graph: list[NewJob] = [{"kind": "first", "queue": "q", "max_retries": 0}]
    graph += [{"kind": "k", "queue": "q", "args": n, "after": ["#1"], "after_failed": "wait"} for n in range(3000)]
    first, *_ = Queue(conn).enqueue_many(graph)
    (job,) = claim(conn, 1)
    WorkerQueue(conn).fail(job, "no")
    maintain(conn)
    before = read("pgq_need_needs", conn)
    # No look of these is one of the few that read all.
    conn.execute("SELECT setseed(0.5)")
    for _ in range(10):
        conn.execute("SELECT _pgq_settle_over(ARRAY[%s::bigint], pgq_now())", [first.id])
    assert read("pgq_need_needs", conn) - before < 10 * 1000

    late = one(conn, "SELECT id FROM pgq_blocked ORDER BY id DESC LIMIT 1")
    conn.execute("UPDATE pgq_blocked SET after_failed = 'cancel' WHERE id = %s", [late])

    def is_cancelled() -> bool:
        conn.execute("SELECT _pgq_settle_over(ARRAY[%s::bigint], pgq_now())", [first.id])
        return bool(one(conn, STATES, late) == "cancelled")

    eventually(is_cancelled, "one of the looks finds the job that does not wait")
