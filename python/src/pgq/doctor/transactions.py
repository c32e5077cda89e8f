"""Transactions that stay open with jobs, or with the lock of a queue, in their hands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.words import listed, span

# A transaction that has inserted, changed or claimed a waiting job keeps this lock until its end.
OPEN: Final = """
    SELECT a.pid, a.usename::text AS role, a.application_name, a.state, clock_timestamp() - a.xact_start AS age,
           left(a.query, 200) AS query,
           ARRAY(
               SELECT w.pid
               FROM pg_stat_activity AS w
               WHERE w.wait_event_type = 'Lock' AND a.pid = ANY (pg_blocking_pids(w.pid))
               LIMIT 100
           ) AS blocks
    FROM pg_stat_activity AS a
    WHERE a.pid <> pg_backend_pid()
      AND a.xact_start < clock_timestamp() - %(age)s::interval
      AND EXISTS (
          SELECT
          FROM pg_locks AS l
          WHERE l.pid = a.pid
            AND l.locktype = 'relation'
            AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
            AND l.relation = 'pgq_waiting'::regclass
            AND l.mode = 'RowExclusiveLock'
            AND l.granted
      )
    ORDER BY a.xact_start
    LIMIT 20
"""
LOCKED: Final = """
    SELECT s.queue, a.pid, a.usename::text AS role, a.application_name, a.state,
           clock_timestamp() - a.xact_start AS age, left(a.query, 200) AS query
    FROM pgq_queue_setting AS s
    JOIN pg_locks AS l ON l.locktype = 'transactionid' AND l.transactionid = s.xmax AND l.granted
    JOIN pg_stat_activity AS a ON a.pid = l.pid
    WHERE a.pid <> pg_backend_pid()
      AND a.xact_start < clock_timestamp() - %(age)s::interval
    ORDER BY a.xact_start
    LIMIT 20
"""


def named(row: dict[str, Any]) -> str:
    """Return a session for people: its process, and the name that it gives itself."""
    application = f' ("{row["application_name"]}")' if row["application_name"] else ""
    return f"process {row['pid']}{application}"


def last_statement(row: dict[str, Any]) -> str:
    """Return what a session runs, or has run last, in one line."""
    statement = " ".join((row["query"] or "").split())
    return f" Its last statement: {statement}" if statement else ""


def end_of(row: dict[str, Any]) -> str:
    """Return how to end the transaction of a session."""
    return (
        f"Let {named(row)} commit or roll back, and keep such transactions short. To end it now: "
        f"SELECT pg_terminate_backend({row['pid']});"
    )


@check(Needs.READER | Needs.MONITOR | Needs.PRIMARY)
def open_transaction(reading: Reading) -> Iterator[Finding]:
    """Yield transactions that have enqueued, changed or claimed jobs and stay open."""
    for row in reading.rows(OPEN, age=reading.thresholds.transaction):
        waiting = f" Processes {listed(row['blocks'])} wait for it now." if row["blocks"] else ""
        yield Finding(
            "open-transaction",
            "error" if row["blocks"] else "warning",
            f"{named(row)} has enqueued or claimed jobs in a transaction that has been open for {span(row['age'])} "
            f"({row['state']})",
            "No worker sees what it has enqueued before it commits. A session that enqueues the same job waits for it, "
            f"and a job that is to be retried cannot merge with a twin that it holds.{waiting}{last_statement(row)}",
            end_of(row),
            row,
        )


@check(Needs.OWNER | Needs.MONITOR | Needs.PRIMARY)
def limited_queue_held(reading: Reading) -> Iterator[Finding]:
    """Yield queues with limits that a transaction keeps to itself."""
    for row in reading.rows(LOCKED, age=reading.thresholds.claim):
        yield Finding(
            "limited-queue-held",
            "error",
            f'{named(row)} keeps queue "{row["queue"]}" for itself, in a transaction that has been open for '
            f"{span(row['age'])} ({row['state']})",
            "A claim from a queue with limits holds the lock of the queue until its transaction ends. Meanwhile no "
            f"other worker gets a job of this queue.{last_statement(row)}",
            f"{end_of(row)} Claim in a transaction of its own, and work afterwards.",
            row,
        )


CHECKS: Final[tuple[Check, ...]] = (open_transaction, limited_queue_held)
