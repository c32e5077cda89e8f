"""Counters of what has happened: exact while sessions work, roll back and fold, and never seen to shrink."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import psycopg
import pytest
from support.database import Connect, Connection, one
from support.threads import Thread

from pgq import Views, WorkerQueue

COUNTED = ("enqueued", "claimed", "done", "failed", "dead", "cancelled", "merged")


def work(queue: WorkerQueue, seed: int, jobs: int, counts: Counter[str]) -> None:
    """Enqueue, claim and end jobs in a queue of its own, in any way; count what is committed."""
    chance = random.Random(seed)
    name = f"q{seed}"
    for _ in range(jobs):
        size = chance.choice([1, 3, 12])
        queue.enqueue_many([{"kind": "k", "queue": name, "dedup": False, "max_retries": 0} for _ in range(size)])
        counts["enqueued"] += size
        claimed = queue.claim([name], max_jobs=min(size, 3))
        counts["claimed"] += len(claimed)
        for job in claimed:
            outcome = chance.choice(["done", "kept", "dead", "released", "cancelled", "undone"])
            if outcome == "undone":
                with queue.conn.transaction(force_rollback=True):
                    queue.complete(job)
            if outcome in {"done", "undone"}:
                queue.complete(job)
            elif outcome == "kept":
                queue.complete(job, 1)
            elif outcome == "dead":
                queue.fail(job, "no")
                counts["failed"] += 1
            elif outcome == "released":
                queue.release(job)
            else:
                queue.cancel_claimed(job, "no")
            counts[{"kept": "done", "undone": "done"}.get(outcome, outcome)] += 1
        ids, token = queue.conn.execute("SELECT ids, token FROM pgq_claim_batch(%s, 100)", [[name]]).fetchall()[0]
        queue.conn.execute(
            "SELECT pgq_claim_batch(%s, 0, done_ids => %s, done_tokens => %s)", [[name], ids, [token] * len(ids)]
        )
        counts["claimed"] += len(ids)
        counts["done"] += len(ids)


@pytest.mark.happens("a transaction that ends jobs is rolled back")
def test_counters_are_exact_while_sessions_work_and_fold(conn: Connection, connect: Connect) -> None:
    expected = [Counter[str]() for _ in range(4)]
    conn.execute(
        "INSERT INTO pgq_count (queue, kind, event, jobs) "
        "SELECT 'old', 'k' || n % 3, 'retried', 1 FROM generate_series(1, 30000) AS n"
    )
    workers = [Thread(work, WorkerQueue(connect()), seed, 30, counts) for seed, counts in enumerate(expected)]
    seen: dict[str, dict[str, Any]] = {}
    step = 0
    while any(worker.is_alive() for worker in workers) or step < 12:
        step += 1
        conn.execute("SELECT _pgq_fold_counts(pgq_now() + %s * interval '11 seconds')", [step])
        for row in Views(conn).counters():
            before = seen.get(row["queue"] + row["kind"], row)
            assert all(row[name] >= before[name] for name in (*COUNTED, "timed", "waited_seconds", "ran_seconds"))
            seen[row["queue"] + row["kind"]] = row
    for worker in workers:
        worker.result()
    rows = {row["queue"]: row for row in Views(conn).counters() if row["queue"] != "old"}
    for seed, counts in enumerate(expected):
        assert {name: rows[f"q{seed}"][name] for name in COUNTED} == {name: counts[name] for name in COUNTED}
    assert one(conn, "SELECT sum(jobs) FROM pgq_count WHERE queue = 'old'") == 30000
    assert one(conn, "SELECT count(*) FROM pgq_count WHERE queue = 'old'") < 5000


def test_a_claim_in_a_stricter_isolation_level_folds_nothing(conn: Connection, connect: Connect) -> None:
    """Its snapshot may be older than the last step, and the deletion would fail."""
    conn.execute(
        "INSERT INTO pgq_count (queue, kind, event, jobs) SELECT 'q', 'k', 'claimed', 1 FROM generate_series(1, 4000)"
    )
    strict = connect()
    strict.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with strict.transaction():
        one(strict, "SELECT count(*) FROM pgq_count")
        conn.execute("SELECT _pgq_fold_counts(pgq_now())")
        assert one(conn, "SELECT count(*) FROM pgq_count") == 1
        strict.execute("SELECT _pgq_fold_counts(pgq_now() + interval '1 minute')")


def test_only_one_session_folds_at_a_time(conn: Connection, connect: Connect) -> None:
    """The others do not wait for it."""
    conn.execute(
        "INSERT INTO pgq_count (queue, kind, event, jobs) SELECT 'q', 'k', 'claimed', 1 FROM generate_series(1, 4000)"
    )
    other = connect(autocommit=False)
    other.execute("SELECT _pgq_fold_counts(pgq_now())")
    conn.execute("SET statement_timeout = '10s'")
    conn.execute("SELECT _pgq_fold_counts(pgq_now())")
    assert one(conn, "SELECT count(*) FROM pgq_count") == 4000
    other.commit()
    assert one(conn, "SELECT count(*) FROM pgq_count") == 1
