"""The hot path reads what it needs and no more, whatever the statistics say."""

from __future__ import annotations

import pytest
from conftest import Connection, eventually

from pgq import LeaseLost, Queue

BACKLOG = 20_000


def read(conn: Connection) -> int:
    """How many rows were read in scans of whole tables, and entries in all indexes but the one of the claim, so far."""
    # PostgreSQL 14 has no such function; there the numbers arrive with a short delay.
    if conn.info.server_version >= 150000:
        conn.execute("SELECT pg_stat_force_next_flush()")
    row = conn.execute(
        "SELECT sum(seq_tup_read)::bigint + ("
        "    SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes"
        "    WHERE relname ~ '^pgq_' AND indexrelname <> 'pgq_waiting_claim') "
        "FROM pg_stat_user_tables WHERE relname ~ '^pgq_'"
    ).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize("plan_cache_mode", ["auto", "force_generic_plan"])
def test_lying_statistics_do_not_flip_a_plan(queue: Queue, plan_cache_mode: str) -> None:
    """After an ANALYZE of emptied tables, jobs are found one by one among thousands, not by reading them all."""
    conn = queue.conn
    conn.execute(f"SET plan_cache_mode = {plan_cache_mode}")
    conn.execute("ALTER TABLE pgq_waiting SET (autovacuum_enabled = off)")
    conn.execute("ALTER TABLE pgq_running SET (autovacuum_enabled = off)")
    queue.enqueue_many({"kind": "dead", "args": n} for n in range(1000))
    queue.complete_many(queue.claim(max_jobs=1000))
    conn.execute("ANALYZE pgq_waiting, pgq_running")
    queue.enqueue_many({"kind": "job", "args": n} for n in range(BACKLOG))
    running = queue.claim(max_jobs=5000)

    read(conn)
    before = read(conn)
    for n in range(20):
        queue.complete_many(queue.claim(max_jobs=10))
        queue.complete(running[n])
        queue.fail(running[100 + n])
        queue.extend(running[200 + n])
        queue.release(running[300 + n])
        queue.enqueue("job", BACKLOG - 1 - n)
    queue.enqueue_many({"kind": "job", "args": n} for n in range(BACKLOG - 100, BACKLOG))
    eventually(lambda: read(conn) > before, "the statistics arrive")
    # 520 look-ups, each of an entry or two and perhaps some dead ones; a single scan of a whole table is 5,000.
    assert read(conn) - before < 4000


def test_a_plan_that_was_made_for_an_empty_table_serves_a_full_one(queue: Queue) -> None:
    """A session that has called each verb often enough for a generic plan keeps looking jobs up one by one."""
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

    read(conn)
    before = read(conn)
    for held in running[:20]:
        queue.extend(held)
        queue.hold(held)
    for first, second, third in zip(*[iter(running[:15])] * 3, strict=True):
        queue.complete(first)
        queue.fail(second)
        queue.release(third)
    eventually(lambda: read(conn) > before, "the statistics arrive")
    assert read(conn) - before < 1000
