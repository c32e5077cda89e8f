"""Queues that stand still because of their settings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from shlex import quote
from typing import Any, Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.words import literal, number, ripe, span

# When a job of the queue has last begun; of those that run.
BEGUN: Final = """
    SELECT max(j.claimed_at)
    FROM (
        SELECT o.claimed_at
        FROM pgq_jobs AS o
        WHERE o.state = 'running' AND o.ended_at IS NULL AND o.queue = %(queue)s
        LIMIT %(rows)s
    ) AS j
"""
# The dead job before the first waiting one of an ordered group, found as a claim finds it.
STOPPED: Final = """
    SELECT s.queue, CASE WHEN s.sensitive IS NOT TRUE THEN head.group_key END AS group_key, head.id AS waits,
           dead.id AS dead, dead.kind, clock.now - dead.ended_at AS age
    FROM (SELECT pgq_now() AS now) AS clock
    CROSS JOIN pgq_queue_setting AS s
    CROSS JOIN LATERAL (
        SELECT e.id, e.kind, e.group_id, e.ended_at
        FROM pgq_ended AS e
        WHERE e.queue COLLATE "C" = s.queue AND e.outcome = 'dead' AND e.group_id IS NOT NULL
        ORDER BY e.group_id, e.id
        LIMIT 100
    ) AS dead
    CROSS JOIN LATERAL (
        SELECT w.id, w.group_key
        FROM pgq_waiting AS w
        WHERE w.queue COLLATE "C" = s.queue AND w.group_id IS NOT NULL AND w.group_id = dead.group_id
        ORDER BY w.id
        LIMIT 1
    ) AS head
    WHERE s.ordered AND s.on_dead = 'stop' AND dead.id < head.id
    ORDER BY s.queue, dead.id
    LIMIT 20
"""
# How many jobs of the queue are ripe, in each paused group.
GROUPS: Final = """
    SELECT p.queue, CASE WHEN s.sensitive IS NOT TRUE THEN p.group_key END AS group_key,
           nullif(p.until, 'infinity') AS until, count(*) AS ripe
    FROM pgq_paused AS p
    LEFT JOIN pgq_queue_setting AS s ON s.queue = p.queue
    CROSS JOIN LATERAL (
        SELECT
        FROM pgq_waiting AS w
        WHERE w.queue COLLATE "C" = p.queue AND w.group_id IS NOT NULL AND w.group_id = p.group_id
          AND w.ripe_at <= pgq_now()
        LIMIT 1000
    ) AS j
    WHERE p.group_id <> 0 AND p.until > pgq_now()
    GROUP BY p.queue, p.group_id, p.group_key, p.until, s.sensitive
    ORDER BY ripe DESC
    LIMIT 20
"""


def waiting(reading: Reading, queue: str) -> int:
    """Return how many jobs of a queue are ripe."""
    return sum(row["ripe"] for row in reading.kinds if row["queue"] == queue)


def until(reading: Reading, end: datetime | None) -> str:
    """Return for how long a pause lasts."""
    return f"for another {span(end - reading.now)}" if end else "until it is resumed"


def group(row: dict[str, Any]) -> str:
    """Return a group for people; the keys of a sensitive queue are not shown."""
    return "a group" if row["group_key"] is None else f'group "{row["group_key"]}"'


@check(Needs.READER)
def paused_queue(reading: Reading) -> Iterator[Finding]:
    """Yield paused queues in which jobs wait."""
    for row in reading.queues:
        jobs = waiting(reading, row["queue"])
        if row["paused"] and jobs:
            yield Finding(
                "paused-queue",
                "warning",
                f'queue "{row["queue"]}" is paused {until(reading, row["paused_until"])}, and {ripe(jobs)}',
                "No job of the queue is claimed while it is paused. Enqueues go on, so more and more of them wait.",
                f"pgq resume {quote(row['queue'])}",
                {"queue": row["queue"], "ripe": jobs, "paused_until": row["paused_until"]},
            )


@check(Needs.OWNER)
def paused_group(reading: Reading) -> Iterator[Finding]:
    """Yield paused groups in which jobs wait."""
    for row in reading.rows(GROUPS):
        key = "…" if row["group_key"] is None else literal(row["group_key"])
        yield Finding(
            "paused-group",
            "warning",
            f'{group(row)} of queue "{row["queue"]}" is paused {until(reading, row["until"])}, and {ripe(row["ripe"])}',
            "No job of the group is claimed while it is paused; the other groups go on.",
            f"SELECT {reading.schema}.pgq_resume({literal(row['queue'])}, {key});",
            row,
        )


@check(Needs.READER)
def full_queue(reading: Reading) -> Iterator[Finding]:
    """Yield queues at a limit that have started no job for long, although jobs are ripe."""
    thresholds = reading.thresholds
    for row in reading.queues:
        jobs = waiting(reading, row["queue"])
        is_full = row["at_limit"] or row["groups_at_limit"]
        if row["paused"] or not jobs or not is_full:
            continue
        begun = reading.value(BEGUN, queue=row["queue"], rows=thresholds.rows)
        if begun is None or reading.now - begun < thresholds.still:
            continue
        what = (
            f"{row['running']} of {row['max_running']} jobs that may run at a time do"
            if row["at_limit"]
            else f"as many jobs of {number(row['groups_at_limit'], 'group')} run as may run at a time"
        )
        yield Finding(
            "full-queue",
            "warning",
            f'queue "{row["queue"]}" is full, and has started no job for {span(reading.now - begun)}: {what}, and '
            f"{ripe(jobs)}",
            "The jobs that run take long or hang, and no other starts before one of them ends or loses its lease.",
            f"See with pgq list --queue {quote(row['queue'])} --state running which jobs run, cancel those that hang, "
            f"or raise the limit: pgq configure {quote(row['queue'])} max_running=N",
            {"queue": row["queue"], "ripe": jobs, "running": row["running"], "max_running": row["max_running"],
             "groups_at_limit": row["groups_at_limit"], "last_start_at": begun},
        )  # fmt: skip


@check(Needs.READER)
def spent_rate(reading: Reading) -> Iterator[Finding]:
    """Yield queues whose rate lets no job start for long."""
    for row in reading.queues:
        jobs = waiting(reading, row["queue"])
        if row["paused"] or not jobs or row["next_start_at"] is None:
            continue
        wait = row["next_start_at"] - reading.now
        if wait < reading.thresholds.still:
            continue
        yield Finding(
            "spent-rate",
            "warning",
            f'the rate of queue "{row["queue"]}" lets no job start for {span(wait)}, and {ripe(jobs)}',
            "The jobs that have started have used up the rate for that time; or it is so small that it is a pause.",
            f"Wait, or raise the rate: pgq configure {quote(row['queue'])} rate=N per=INTERVAL",
            {"queue": row["queue"], "ripe": jobs, "next_start_at": row["next_start_at"]},
        )


@check(Needs.OWNER)
def stopped_group(reading: Reading) -> Iterator[Finding]:
    """Yield ordered groups that a dead job keeps still."""
    for row in reading.rows(STOPPED):
        yield Finding(
            "stopped-group",
            "error",
            f'{group(row)} of queue "{row["queue"]}" stands still since job {row["dead"]} of kind '
            f'"{row["kind"]}" died {span(row["age"])} ago',
            "The queue is ordered and has on_dead = stop: the jobs after a dead one wait until it is retried or "
            f"deleted. Job {row['waits']} is the next.",
            f"pgq show {row['dead']} shows why. pgq retry {row['dead']} runs it again. To leave it out: "
            f"SELECT {reading.schema}.pgq_purge_jobs('{{{row['dead']}}}'); deletes it, and lets the others go on.",
            row,
        )


CHECKS: Final[tuple[Check, ...]] = (
    paused_queue, paused_group, full_queue, spent_rate, stopped_group
)  # fmt: skip
