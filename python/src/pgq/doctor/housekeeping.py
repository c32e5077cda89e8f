"""What claims do on the side, and whether they come to it."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.words import number, size, span

# Jobs that no transaction has locked: the rescue passes by those that are.
EXPIRED: Final = """
    SELECT count(*) AS jobs, max(pgq_now() - r.lease_until) AS late
    FROM (
        SELECT o.lease_until, o.xmax FROM pgq_running AS o WHERE o.lease_until < pgq_now() - %(rescue)s::interval
        UNION ALL
        SELECT b.lease_until, b.xmax FROM pgq_running_batch AS b WHERE b.lease_until < pgq_now() - %(rescue)s::interval
        LIMIT %(rows)s
    ) AS r
    WHERE NOT EXISTS (
        SELECT FROM pg_locks AS l WHERE l.locktype = 'transactionid' AND l.transactionid = r.xmax AND l.granted)
    HAVING count(*) > 0
"""
# The oldest job of those that must be gone, whatever their queue and outcome.
KEPT: Final = """
    SELECT clock.now - old.ended_at - longest.keep AS late, longest.keep
    FROM (SELECT pgq_now() AS now) AS clock
    CROSS JOIN (
        SELECT greatest(interval '30 days', max(greatest(s.keep_done, s.keep_dead, s.keep_cancelled))) AS keep
        FROM pgq_queue_setting AS s
    ) AS longest
    CROSS JOIN LATERAL (SELECT e.ended_at FROM pgq_ended AS e ORDER BY e.ended_at LIMIT 1) AS old
    WHERE old.ended_at < clock.now - longest.keep - %(slack)s::interval
"""
COUNTS: Final = "SELECT count(*) FROM (SELECT FROM pgq_count LIMIT %(most)s) AS c"
FOREVER: Final = """
    SELECT coalesce(nullif(s.queue, ''), 'all queues') AS queue, s.queue AS name,
           greatest(s.keep_done, s.keep_dead, s.keep_cancelled) AS keep, pg_total_relation_size('pgq_ended') AS bytes
    FROM pgq_queue_setting AS s
    WHERE greatest(s.keep_done, s.keep_dead, s.keep_cancelled) >= interval '10 years'
      AND pg_total_relation_size('pgq_ended') > %(bytes)s
    ORDER BY s.queue
    LIMIT 20
"""


@check(Needs.OWNER)
def late_rescue(reading: Reading) -> Iterator[Finding]:
    """Yield that jobs have lost their leases, and nobody takes them back."""
    thresholds = reading.thresholds
    for row in reading.rows(EXPIRED, rescue=thresholds.rescue, rows=thresholds.rows):
        yield Finding(
            "late-rescue",
            "error",
            f"{number(row['jobs'], 'job')} lost {'its' if row['jobs'] == 1 else 'their'} lease up to "
            f"{span(row['late'])} ago and {'was' if row['jobs'] == 1 else 'were'} not rescued",
            "The claims of workers, and workers that sleep, rescue such jobs within about two seconds, of whatever "
            "queue. So no worker is there that claims, or after a held snapshot the search is rare.",
            "Start a worker, for any queue.",
            row,
        )


@check(Needs.OWNER)
def late_housekeeping(reading: Reading) -> Iterator[Finding]:
    """Yield that old jobs and counts are not cleared away."""
    thresholds = reading.thresholds
    for row in reading.rows(KEPT, slack=thresholds.deletion):
        yield Finding(
            "late-housekeeping",
            "warning",
            f"jobs that have ended should have been deleted {span(row['late'])} ago",
            "Claims delete up to a thousand old jobs a second. So nobody claims, or more jobs end than that. The table "
            "grows; nothing else is wrong.",
            "Start a worker, or delete them at once: pgq purge --older-than 30d",
            row,
        )
    counts = reading.value(COUNTS, most=thresholds.counts)
    if counts >= thresholds.counts:
        yield Finding(
            "late-housekeeping",
            "warning",
            f"pgq_count has {counts:,} rows or more that are to be folded",
            "Claims fold up to 5,000 of them a second. So nobody claims, or a snapshot keeps the rows. The view "
            "pgq_counters takes long.",
            "Start a worker, for any queue, and see the findings about snapshots.",
            {"rows": counts},
        )


@check(Needs.OWNER)
def kept_for_ever(reading: Reading) -> Iterator[Finding]:
    """Yield that retention is off while jobs that have ended pile up."""
    for row in reading.rows(FOREVER, bytes=reading.thresholds.ended_bytes):
        yield Finding(
            "kept-for-ever",
            "warning",
            f"jobs of {row['queue']} are kept for {span(row['keep'])} after their end, and those of all queues take "
            f"{size(row['bytes'])}",
            "Nothing deletes them but pgq purge. The disk fills, and the views that count them take longer.",
            f"pgq configure {quote(row['name'])} keep_done='7 days' keep_dead='30 days' keep_cancelled='30 days', or "
            "from time to time: pgq purge --older-than 90d",
            row,
        )


CHECKS: Final[tuple[Check, ...]] = (late_rescue, late_housekeeping, kept_for_ever)
