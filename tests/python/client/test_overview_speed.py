"""What the bounded readings cost does not grow with the jobs, nor with what a held snapshot keeps."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.database import Connection, flush, one

from pgq import WorkerQueue

# Pages and index entries that a reading touches, whatever there is.
PAGES, ENTRIES = 5_000, 150_000
TABLES = ("pgq_waiting", "pgq_ended", "pgq_blocked")


@pytest.fixture(autouse=True)
def unvacuumed(conn: Connection) -> None:
    """The statistics count the pages that autovacuum reads, too; on PostgreSQL 14 it has seconds for that."""
    for table in TABLES:
        conn.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode())


def touched(conn: Connection, calls: Sequence[str]) -> tuple[int, int]:
    """Return how many pages of the tables, and entries of their indexes, these calls read."""
    query = (
        "SELECT sum(heap_blks_read + heap_blks_hit), "
        "(SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = ANY (%(tables)s)) "
        "FROM pg_statio_user_tables WHERE relname = ANY (%(tables)s)"
    )

    def read() -> list[int]:
        flush(conn)
        return [int(number) for number in conn.execute(query.encode(), {"tables": list(TABLES)}).fetchall()[0]]

    before = read()
    for call in calls:
        conn.execute(f"SELECT * FROM {call}".encode())
    pages, entries = (now - then for now, then in zip(read(), before, strict=True))
    return pages, entries


@pytest.mark.parametrize("call", ["pgq_overview_kinds()", "pgq_overview_waits()"])
def test_many_waiting_jobs_are_not_read(conn: Connection, call: str) -> None:
    conn.execute(
        "INSERT INTO pgq_waiting (queue, kind, args, priority, ripe_at, attempt, dedup, enqueued_at) "
        "SELECT 'q' || n % 3, 'k', '{}', 5, now(), 0, false, now() FROM generate_series(1, 300000) AS n"
    )
    pages, entries = touched(conn, [call])
    assert pages < PAGES
    assert entries < ENTRIES


@pytest.mark.parametrize("call", ["pgq_overview_kinds()", "pgq_overview_waits()"])
def test_jobs_that_come_after_many_calls_are_not_read(conn: Connection, call: str) -> None:
    """A session keeps the plans that it has made while the tables were small."""
    conn.execute("ANALYZE pgq_waiting, pgq_ended, pgq_blocked")
    for _ in range(10):
        conn.execute(f"SELECT * FROM {call}".encode())
    conn.execute(
        "INSERT INTO pgq_waiting (queue, kind, args, priority, ripe_at, attempt, dedup, enqueued_at) "
        "SELECT 'q' || n % 3, 'k', '{}', 5, now(), 0, false, now() FROM generate_series(1, 300000) AS n"
    )
    pages, entries = touched(conn, [call])
    assert pages < PAGES / 2
    assert entries < ENTRIES


@pytest.mark.parametrize("call", ["pgq_overview_kinds()", "pgq_overview_waits()"])
def test_a_queue_that_was_worked_off_under_a_held_snapshot_is_not_walked(
    conn: Connection, queue: WorkerQueue, rationed: None, snapshot: None, call: str
) -> None:
    conn.execute(
        "INSERT INTO pgq_waiting (queue, kind, args, priority, ripe_at, attempt, dedup, enqueued_at) "
        "SELECT 'past', 'k', '{}', 5, now() - interval '1 hour', 0, false, now() FROM generate_series(1, 200000) AS n"
    )
    conn.execute("DELETE FROM pgq_waiting")
    queue.enqueue("k", queue="zoo")
    # What a claim does that has walked over the entries: it shares the head.
    queue.claim(["past"])
    assert one(conn, "SELECT count(*) FROM pgq_head WHERE queue = 'past'") == 1
    pages, entries = touched(conn, [call])
    assert pages < PAGES
    assert entries < 1000


def test_what_is_done_and_kept_is_not_counted(conn: Connection) -> None:
    conn.execute(
        "INSERT INTO pgq_ended (id, queue, kind, args, priority, ripe_at, attempt, max_retries, dedup, enqueued_at, "
        "outcome, ended_at) SELECT n, 'q', 'k', '{}', 5, now(), 0, 0, false, now(), "
        "CASE WHEN n % 100000 = 0 THEN 'dead' ELSE 'done' END, now() FROM generate_series(1, 300000) AS n"
    )
    pages, _ = touched(conn, ["pgq_overview_kinds()"])
    assert pages < PAGES
    assert touched(conn, ["pgq_overview_deaths()"])[0] < 100
    assert one(conn, "SELECT dead FROM pgq_overview_kinds() WHERE NOT estimated OR dead > 0") == 3
