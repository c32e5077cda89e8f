"""What became of all jobs, according to the tables of the run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from support.errors import astray

from torture import flows, limits, steps
from torture.faults import Injector
from torture.producers import POISON
from torture.workers import Workers

EXACTLY_ONCE = ["transaction", "batch", "own"]

# A committed enqueue is lost unless a run of its job has seen it and left an effect, or the job has ended as dead or
# cancelled. For a duplicate this also proves that the run read the ledger after the duplicate's commit. A poisoned job
# that merges into its twin ends with that, whichever was enqueued first.
LOST = """
SELECT format('enqueue %%s of %%s job %%s (%%s, %%s) has no effect', n, kind, job, topic, fate)
FROM torture.ledger AS l
WHERE NOT EXISTS (SELECT FROM torture.effect AS e WHERE e.topic = l.topic AND l.n = ANY (e.seen))
  AND NOT EXISTS (SELECT FROM pgq_ended AS d WHERE d.id = l.job)
  AND NOT (l.fate = ANY (%(poison)s) AND EXISTS (
      SELECT FROM pgq_ended AS d WHERE (d.kind, d.dedup_key) = (l.kind, l.topic) AND d.ended_at > l.at))
UNION ALL
SELECT format('enqueue %%s was acknowledged, but the database does not know it', n)
FROM unnest(%(acknowledged)s::bigint[]) AS n
WHERE n NOT IN (SELECT n FROM torture.ledger)
"""
# Where effects may repeat, attempts increase from claim to claim, unless a process that was told twice to stop has
# released the job, or the job was lost together with others.
DOUBLED = """
SELECT format('%%s job %%s has %%s effects', kind, job, count(*))
FROM torture.effect
WHERE kind = ANY (%(exactly_once)s)
GROUP BY kind, job
HAVING count(*) > 1
UNION ALL
SELECT format('%%s job %%s (%%s) ran, but its enqueue was rolled back', e.kind, e.job, e.topic)
FROM torture.effect AS e
WHERE NOT EXISTS (
    SELECT FROM torture.ledger AS l WHERE l.created AND (l.job, l.kind, l.topic) = (e.job, e.kind, e.topic))
UNION ALL
SELECT format('%%s job %%s ran twice at attempt %%s, in processes %%s and %%s', kind, job, attempt, last_pid, pid)
FROM (
    SELECT kind, job, token, attempt, pid, lag(token) OVER w AS last_token, lag(attempt) OVER w AS last_attempt,
           lag(pid) OVER w AS last_pid
    FROM torture.effect
    WHERE kind <> ALL (%(exactly_once)s)
    WINDOW w AS (PARTITION BY job ORDER BY token)
) AS e
WHERE token = last_token OR attempt < last_attempt OR (
    attempt = last_attempt AND last_pid <> ALL (%(stopped_twice)s)
    AND NOT EXISTS (SELECT FROM torture.uncounted AS u WHERE (u.job, u.token) = (e.job, e.last_token)))
UNION ALL
SELECT format('%%s job %%s of %%s was ended by %%s', kind, job, holder, other)
FROM torture.foreign_end
"""
LEFT = """
SELECT format('%%s job %%s is %%s at attempt %%s: %%s', kind, id, state, attempt, errors -> 0 ->> 'error')
FROM pgq_jobs
WHERE state IN ('waiting', 'running')
   OR state <> CASE
                   WHEN args ->> 'fate' = ANY (%(poison)s) THEN 'dead'
                   WHEN args ->> 'fate' IN ('cancel', 'operator') THEN 'cancelled'
                   ELSE 'gone'
               END
   OR (state = 'dead' AND attempt <> max_retries + 1)
"""

COVERAGE = """
SELECT (SELECT count(*) FROM pgq_ended WHERE outcome = 'dead' AND dedup_key IS NOT NULL),
       (SELECT count(*) FROM torture.ledger WHERE NOT created),
       (SELECT count(*) FROM (SELECT FROM torture.effect GROUP BY job HAVING count(*) > 1) AS e)
"""


@dataclass
class Verdict:
    """The numbers of the closing line, and the cases behind them."""

    jobs: int
    steps: int
    followed: int
    kills: int
    restarts: int
    lost: list[str]
    doubled: list[str]
    skipped: list[str]
    left: list[str]
    beyond: list[str]
    crashes: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether all promises were kept."""
        return not (self.lost or self.doubled or self.skipped or self.left or self.beyond or self.crashes)

    @property
    def line(self) -> str:
        """The closing line."""
        return (
            f"{self.jobs:,} jobs, {self.steps:,} steps, {self.followed:,} after others, {self.kills} kills, "
            f"{self.restarts} restarts: "
            f"{len(self.lost)} lost, {len(self.doubled)} doubled, {len(self.skipped)} skipped, "
            f"{len(self.left)} left, {len(self.beyond)} beyond limits"
        )


def doubled(conn: psycopg.Connection[Any], stopped_twice: Iterable[int]) -> list[str]:
    """Return what was done more often than allowed, so far."""
    jobs = _texts(conn, DOUBLED, exactly_once=EXACTLY_ONCE, stopped_twice=list(stopped_twice))
    return jobs + steps.doubled(conn) + flows.doubled(conn)


def judge(conn: psycopg.Connection[Any], acknowledged: list[int], injector: Injector, workers: Workers) -> Verdict:
    """Judge the tables of a run that is over."""
    (jobs,) = conn.execute("SELECT count(*) FROM torture.ledger WHERE created").fetchone() or (0,)
    return Verdict(
        jobs,
        steps.count(conn),
        flows.count(conn),
        injector.counts["kill"],
        injector.counts["restart"],
        _texts(conn, LOST, acknowledged=acknowledged, poison=list(POISON)) + flows.lost(conn),
        doubled(conn, injector.stopped_twice),
        steps.skipped(conn),
        _texts(conn, LEFT, poison=list(POISON)) + astray(conn),
        limits.beyond(conn),
        workers.crashes,
    )


def coverage(conn: psycopg.Connection[Any]) -> tuple[int, int, int]:
    """Return the number of dead jobs that had twins, of duplicates, and of jobs with more than one effect."""
    dead, duplicates, repeated = conn.execute(COVERAGE).fetchone() or (0, 0, 0)
    return dead, duplicates, repeated


def _texts(conn: psycopg.Connection[Any], query: str, **parameters: Any) -> list[str]:
    return [row[0] for row in conn.execute(query.encode(), parameters).fetchall()]
