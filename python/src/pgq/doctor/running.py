"""Jobs that run: leases that end, and jobs that are not given back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.words import number, span

# The transaction that has a row locked is its xmax; the lock of a transaction on its own number tells the process.
HELD: Final = """
    SELECT r.id, r.queue, r.kind, r.worker, pgq_now() - r.lease_until AS overdue,
           l.pid, a.application_name, a.state, left(a.query, 200) AS query, clock_timestamp() - a.xact_start AS age
    FROM (
        SELECT o.id, o.queue, o.kind, o.worker, o.lease_until, o.xmax
        FROM pgq_running AS o
        WHERE o.lease_until < pgq_now() - %(rescue)s::interval
        UNION ALL
        SELECT b.ids[1], b.queues[1], b.kinds[1], b.worker, b.lease_until, b.xmax
        FROM pgq_running_batch AS b
        WHERE b.lease_until < pgq_now() - %(rescue)s::interval
        LIMIT %(rows)s
    ) AS r
    JOIN pg_locks AS l ON l.locktype = 'transactionid' AND l.transactionid = r.xmax AND l.granted
    LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
    ORDER BY r.lease_until
    LIMIT 20
"""
# Workers extend a lease when a third of it is over. Jobs that have ended have no index on the state, but one on
# ended_at.
ENDING: Final = """
    SELECT coalesce(j.worker, '') AS worker, j.queue, count(*) AS jobs, min(j.id) AS job,
           min(j.lease_until - clock.now) AS ends_in
    FROM (
        SELECT o.id, o.queue, o.worker, o.claimed_at, o.lease_until
        FROM pgq_jobs AS o
        WHERE o.state = 'running' AND o.ended_at IS NULL
        LIMIT %(rows)s
    ) AS j
    CROSS JOIN (SELECT pgq_now() AS now) AS clock
    WHERE j.lease_until > clock.now
      AND j.lease_until - clock.now < least(interval '30 seconds', (j.lease_until - j.claimed_at) / 10)
    GROUP BY 1, 2
    ORDER BY ends_in
    LIMIT 20
"""


@check(Needs.OWNER | Needs.PRIMARY)
def held_job(reading: Reading) -> Iterator[Finding]:
    """Yield jobs whose leases are over, and which a transaction keeps."""
    thresholds = reading.thresholds
    for row in reading.rows(HELD, rescue=thresholds.rescue, rows=thresholds.rows):
        yield Finding(
            "held-job",
            "error",
            f'job {row["id"]} of kind "{row["kind"]}" is held by process {row["pid"]} of the server, although its '
            f"lease ended {span(row['overdue'])} ago",
            f'Worker "{row["worker"] or "without a name"}" is frozen or unreachable in the middle of a transaction '
            "that has the job locked. No other worker gets the job before this transaction ends.",
            f"Wake the worker up, or end its session: SELECT pg_terminate_backend({row['pid']}); the job is then "
            "rescued, and what the transaction has written is undone.",
            row,
        )


@check(Needs.READER)
def lease_ending(reading: Reading) -> Iterator[Finding]:
    """Yield the workers whose leases are about to run out."""
    for row in reading.rows(ENDING, rows=reading.thresholds.rows):
        yield Finding(
            "lease-ending",
            "warning",
            f'worker "{row["worker"] or "without a name"}" loses {number(row["jobs"], "job")} of queue '
            f'"{row["queue"]}" in {span(row["ends_in"])}, unless it extends the lease',
            "A worker that lives extends a lease long before. This one is frozen or cut off, is a client that does not "
            "extend, or its handler runs past its timeout. When the lease ends, another worker runs the job again.",
            "See whether the process of the worker is alive and reaches the server. A client of your own calls "
            "pgq_extend, or claims with a longer lease.",
            row,
        )


CHECKS: Final[tuple[Check, ...]] = (held_job, lease_ending)
