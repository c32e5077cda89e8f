"""Calls read the rows they need and no more, whatever the statistics say."""

from __future__ import annotations

import pytest
from support.database import Connection, flush, ration
from support.threads import eventually

from pgq import LeaseLost, WorkerQueue

BACKLOG = 20_000


def effort(conn: Connection) -> int:
    """Return the rows read in sequential scans plus the entries read from all indexes, so far."""
    flush(conn)
    row = conn.execute(
        "SELECT sum(seq_tup_read)::bigint + ("
        "    SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes WHERE relname ~ '^pgq_') "
        "FROM pg_stat_user_tables WHERE relname ~ '^pgq_'"
    ).fetchone()
    assert row is not None
    return int(row[0])


# What has happened to the tables before they are filled, and what the planner knows of them.
HISTORIES = {
    "just created": "",
    "analyzed when empty": "ANALYZE",
    "emptied and rewritten": "VACUUM FULL",
    "emptied and vacuumed": "VACUUM ANALYZE",
}


@pytest.mark.parametrize("plan_cache_mode", ["auto", "force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("history", [*HISTORIES, "one row each", "analyzed when full"])
def test_no_statistics_flip_a_plan(queue: WorkerQueue, history: str, plan_cache_mode: str) -> None:
    """Jobs are looked up one by one among thousands, not by scans of all of them."""
    conn = queue.conn
    conn.execute(f"SET plan_cache_mode = {plan_cache_mode}".encode())
    for table in ("pgq_waiting", "pgq_running"):
        conn.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())
    if history != "just created":
        queue.enqueue_many({"kind": "dead", "args": n} for n in range(1000))
        queue.complete_many(queue.claim(max_jobs=1000))
    if history == "one row each":
        queue.enqueue_many({"kind": "dead", "args": n} for n in range(2))
        queue.claim()
        conn.execute("ANALYZE pgq_waiting, pgq_running")
    for table in ("pgq_waiting", "pgq_running"):
        if command := HISTORIES.get(history):
            conn.execute(f"{command} {table}".encode())
    queue.enqueue_many({"kind": "job", "args": n} for n in range(BACKLOG))
    running = queue.claim(max_jobs=5000)
    if history == "analyzed when full":
        conn.execute("ANALYZE pgq_waiting, pgq_running")
    ration(conn, "5 minutes")
    for _ in range(2):
        queue.complete_many(queue.claim())

    effort(conn)
    before = effort(conn)
    for n in range(20):
        # Enough jobs for the head to move every other time.
        queue.complete_many(queue.claim(max_jobs=60))
        queue.complete(running[n])
        queue.fail(running[100 + n])
        queue.extend(running[200 + n])
        queue.release(running[300 + n])
        queue.hold(running[400 + n])
        queue.enqueue("job", BACKLOG - 1 - n)
    queue.enqueue_many({"kind": "job", "args": n} for n in range(BACKLOG - 100, BACKLOG))
    queue.enqueue_many({"kind": "job", "args": n, "on_duplicate": "replace"} for n in range(BACKLOG - 100, BACKLOG))
    queue.enqueue_many({"kind": "new", "args": n} for n in range(100))
    eventually(lambda: effort(conn) > before, "the statistics arrive")
    # About 800 look-ups of an entry or two each, and twenty scans to the head. A scan of all waiting jobs is 14,000
    # entries, one of all running jobs 5,000, and either would be made twenty times.
    assert effort(conn) - before < 8000


def test_a_plan_made_for_an_empty_table_serves_a_full_one(queue: WorkerQueue) -> None:
    """After enough calls for a generic plan, a session still looks jobs up one by one."""
    conn = queue.conn
    queue.enqueue("first")
    (job,) = queue.claim()
    queue.complete(job)
    conn.execute("ALTER TABLE pgq_running SET (autovacuum_enabled = off)")
    conn.execute("VACUUM ANALYZE pgq_running")
    verbs = (queue.hold, queue.complete, queue.fail, queue.extend, queue.release)
    for verb in verbs * 12:
        with pytest.raises(LeaseLost):
            verb(job)
    queue.enqueue_many({"kind": "job", "args": n} for n in range(BACKLOG))
    running = queue.claim(max_jobs=5000)

    effort(conn)
    before = effort(conn)
    for held in running[:20]:
        queue.extend(held)
        queue.hold(held)
    for first, second, third in zip(*[iter(running[:15])] * 3, strict=True):
        queue.complete(first)
        queue.fail(second)
        queue.release(third)
    eventually(lambda: effort(conn) > before, "the statistics arrive")
    assert effort(conn) - before < 1000
