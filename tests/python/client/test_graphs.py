"""Arrays of jobs of which some run after others: enqueued as a set, with the same result as one by one."""

from __future__ import annotations

import random
import re
from typing import Any

import psycopg
import pytest
from support.database import Connect, Connection, one, waits_for_lock
from support.threads import Thread, eventually

import pgq
from pgq import Enqueued, NewJob, Queue, WorkerQueue

# What stands for the function that enqueues the jobs as a set: then they are enqueued one by one.
ONE_BY_ONE = (
    "CREATE OR REPLACE FUNCTION _pgq_enqueue_blocked(jobs jsonb, at timestamptz, ids bigint[], old bigint[]) "
    "RETURNS bigint[] LANGUAGE sql RETURN NULL::bigint[]"
)
# What stands for the function that enqueues one job after others.
NOT_ONE_BY_ONE = (
    "CREATE OR REPLACE FUNCTION _pgq_enqueue_after(job pgq_waiting, after bigint[], after_failed text, "
    "on_duplicate text, with_window boolean, OUT id bigint, OUT created boolean) LANGUAGE plpgsql "
    "AS $$BEGIN RAISE 'one by one'; END$$"
)
# All of a job but its ids and times of its own.
JOBS = (
    "SELECT id, state, queue, kind, args, priority, ripe_at, max_retries, backoff, backoff_cap, dedup, dedup_key, "
    "context, group_key, after, errors -> 0 ->> 'error' FROM pgq_jobs ORDER BY id"
)


def prepare(conn: Connection) -> dict[str, int]:
    """Enqueue a job for each state, and a blocked one that may get twins. Return their ids."""
    queue, worker = Queue(conn), WorkerQueue(conn)
    gone = queue.enqueue("gone", queue="q").id
    worker.complete(*worker.claim(queues=["q"]))
    dead = queue.enqueue("dead", queue="q").id
    worker.fail(worker.claim(queues=["q"])[0], "no", retry=False)
    running = queue.enqueue("running", queue="q").id
    worker.claim(queues=["q"])
    waiting = queue.enqueue("k", 0).id
    blocked = queue.enqueue("k", 1, after=[waiting]).id
    return {
        "gone": gone,
        "dead": dead,
        "running": running,
        "waiting": waiting,
        "blocked": blocked,
    }


def random_graph(dice: random.Random, outside: dict[str, int], variety: int) -> list[NewJob]:
    """Return an array of jobs; the less variety, the more duplicates there are among them."""
    names = dice.choice([["waiting"], ["waiting", "blocked", "running"], list(outside)])
    jobs: list[Any] = []
    for n in range(25):
        after = [f"#{dice.randint(1, n)}" for _ in range(dice.randint(0, 3)) if n]
        job = {
            "kind": "k",
            "args": dice.randrange(variety),
            "priority": dice.randint(3, 5),
            "after": after + [outside[dice.choice(names)] for _ in range(dice.choice([0, 0, 1]))],
        }
        extra = {
            "after_failed": dice.choice(["cancel", "run", "wait"]),
            "dedup": dice.random() < 0.7,
            "dedup_key": dice.choice("ab") if variety < 9 else str(n),
            "on_duplicate": dice.choice(["keep", "replace", "soonest"]),
            "group_key": dice.choice("gh"),
            "ripe_at": f"203{dice.randrange(9)}-01-01T00:00:00Z",
            "queue": dice.choice(["default", "other"]),
            "max_retries": dice.randint(0, 9),
            "context": {"n": n},
        }
        job |= {key: extra[key] for key in extra if dice.random() < 0.3}
        jobs.append({key: job[key] for key in job if job[key] != [] or dice.random() < 0.5})
    return jobs


def outcome(conn: Connection, graph: list[NewJob], setup: str) -> Any:
    """Enqueue the graph after this setup, and roll back. Return what was returned, and all jobs, without ids."""
    names: dict[int, str] = {}
    with conn.transaction(force_rollback=True):
        conn.execute(setup)
        enqueued = Queue(conn).enqueue_many(graph)
        for n, job in enumerate(enqueued):
            names.setdefault(job.id, f"#{n + 1}")
        rows = conn.execute(JOBS).fetchall()
    jobs = {}
    for job_id, *rest, after, error in rows:
        needs = sorted(names.get(need, str(need)) for need in after or [])
        cause = re.sub(r"job (\d+)", lambda found: names.get(int(found[1]), found[1]), error or "")
        jobs[names.get(job_id, str(job_id))] = [*rest, needs, cause]
    return [(names[job.id], job.created) for job in enqueued], jobs


@pytest.mark.parametrize("variety", [3, 10**9])
@pytest.mark.parametrize("seed", range(25))
@pytest.mark.usefixtures("clock")
def test_a_random_graph_is_enqueued_as_if_one_by_one(conn: Connection, seed: int, variety: int) -> None:
    """The rows that are returned, the jobs and what they wait for are the same."""
    outside = prepare(conn)
    graph = random_graph(random.Random(seed), outside, variety)
    assert outcome(conn, graph, "SELECT") == outcome(conn, graph, ONE_BY_ONE)


def test_a_graph_of_new_jobs_is_enqueued_as_a_set(conn: Connection) -> None:
    """Also where it begins with duplicates, or after jobs that were there before."""
    outside = prepare(conn)
    conn.execute(NOT_ONE_BY_ONE)
    graph: list[NewJob] = [
        {"kind": "k", "args": 0},
        {"kind": "k", "args": 2, "after": ["#1"], "group_key": "g"},
        {"kind": "new", "after_failed": "run", "after": []},
        {
            "kind": "k",
            "args": 3,
            "after": [outside["running"], "#2", "#2", "#3"],
            "after_failed": "run",
        },
    ]
    first, *others = Queue(conn).enqueue_many(graph)
    assert first == Enqueued(outside["waiting"], False)
    assert all(job.created for job in others)
    after = "SELECT after FROM pgq_jobs WHERE id = %s"
    assert one(conn, after, others[0].id) == [first.id]
    assert sorted(one(conn, after, others[2].id)) == sorted([outside["running"], others[0].id, others[1].id])
    assert one(conn, "SELECT _pgq_marks() & _pgq_mark_of('default')") > 0
    with pytest.raises(psycopg.errors.RaiseException, match="one by one"):
        Queue(conn).enqueue_many(graph)


def test_two_sessions_with_the_same_graph_get_the_same_jobs(conn: Connection, connect: Connect) -> None:
    """The second waits for the transaction of the first, and then has duplicates only."""
    outside = prepare(conn)
    graph: list[NewJob] = [
        {
            "kind": "same",
            "args": n,
            "after": [outside["running"], *([f"#{n}"] if n > 3 else [])],
        }
        for n in range(8)
    ]
    a, b = connect(autocommit=False), connect()
    first = Queue(a).enqueue_many(graph)
    thread = Thread(Queue(b).enqueue_many, graph)
    eventually(lambda: waits_for_lock(conn, b), "the second call waits for the first")
    a.commit()
    second = thread.result()
    assert [job.id for job in second] == [job.id for job in first]
    assert not any(job.created for job in second)
    assert one(conn, "SELECT count(*) FROM pgq_blocked WHERE kind = 'same'") == 8
    needs = "SELECT count(*) FROM pgq_need AS n WHERE NOT EXISTS (SELECT FROM pgq_blocked AS b WHERE b.id = n.job)"
    assert one(conn, needs) == 0


def test_a_prerequisite_of_a_graph_may_end_before_the_graph_is_committed(conn: Connection, connect: Connect) -> None:
    """Neither transaction sees the other; maintenance finds that the need is over."""
    first = Queue(conn).enqueue("first", queue="q").id
    (job,) = WorkerQueue(conn).claim(queues=["q"])
    producer = connect(autocommit=False)
    Queue(producer).enqueue_many([{"kind": "k", "args": n, "after": [first]} for n in range(3)])
    WorkerQueue(conn).complete(job)
    producer.commit()
    assert one(conn, "SELECT count(*) FROM pgq_blocked") == 3
    conn.execute("SELECT _pgq_settle_blocked(pgq_now())")
    assert one(conn, "SELECT count(*) FROM pgq_waiting") == 3


@pytest.mark.parametrize(
    ("jobs", "sqlstate", "message"),
    [
        ([{"kind": "k"}, {"kind": "k", "after": ["#2"]}], "22023", "job 2 of the array: after has"),
        ([{"kind": "k"}, {"kind": "k", "after": [10**6]}], "PGQ01", "there has been no job 1000000"),
        ([{"kind": "k"}, {"kind": "k", "after": ["#1"], "after_failed": "x"}], "22023", 'after_failed "x" is unknown'),
        ([{"kind": "k", "after": [], "after_failed": "x"}], "22023", 'after_failed "x" is unknown'),
        ([{"kind": "k"}, {"kind": "k", "after": ["#1"], "dedup_for": "1 hour"}], "22023", "both after and dedup_for"),
        ([{"kind": "k"}, {"kind": "", "after": ["#1"]}], "22023", "job 2 of the array: "),
        ([{"kind": "k"}, *[{"kind": "l", "after": ["#1"], "on_duplicate": "error"}] * 2], "PGQ04", "job 3 of the"),
    ],
)  # fmt: skip
def test_a_graph_with_a_bad_job_is_refused_as_a_whole(
    conn: Connection, jobs: list[NewJob], sqlstate: str, message: str
) -> None:
    """No job of it is enqueued."""
    with pytest.raises((psycopg.Error, pgq.Error), match=message) as caught:
        Queue(conn).enqueue_many(jobs)
    error: Any = caught.value
    assert error.sqlstate == sqlstate
    assert one(conn, "SELECT count(*) FROM pgq_jobs") == 0
