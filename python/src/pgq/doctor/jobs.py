"""Jobs that wait in vain, and those that have died."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from difflib import get_close_matches
from shlex import quote
from typing import Any, Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.words import number, span
from pgq.doctor.words import ripe as are_ripe

# The queues that somebody claims from without being present, as behind a transaction pooler, or a client of one's own.
# Jobs that have ended have no index on the state, but one on ended_at.
CLAIMED: Final = """
    SELECT DISTINCT queue
    FROM (
        SELECT o.queue
        FROM pgq_jobs AS o
        WHERE o.state = 'running' AND o.ended_at IS NULL AND o.claimed_at > %(since)s
        LIMIT %(rows)s
    ) AS j
"""


def served(reading: Reading) -> dict[str, list[dict[str, Any]]]:
    """Return the present workers of each queue."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for worker in reading.workers:
        for queue in worker["queues"] or () if worker["present"] else ():
            found[queue].append(worker)
    return found


def ripe(reading: Reading) -> dict[str, tuple[int, timedelta]]:
    """Return for each queue with ripe jobs that is not paused how many there are, and the age of the oldest."""
    paused = {row["queue"] for row in reading.queues if row["paused"]}
    found: dict[str, tuple[int, timedelta]] = {}
    for row in reading.kinds:
        if row["ripe"] and row["oldest_ripe_age"] is not None and row["queue"] not in paused:
            jobs, age = found.get(row["queue"], (0, timedelta(0)))
            found[row["queue"]] = (jobs + row["ripe"], max(age, row["oldest_ripe_age"]))
    return found


def unserved(reading: Reading) -> dict[str, tuple[int, timedelta]]:
    """Return those of the queues with ripe jobs that no present worker serves, and from which nobody claims."""
    left = {queue: found for queue, found in ripe(reading).items() if queue not in served(reading)}
    if left:
        rows = reading.rows(CLAIMED, since=reading.now - timedelta(minutes=1), rows=reading.thresholds.rows)
        for row in rows:
            left.pop(row["queue"], None)
    return left


@check(Needs.READER)
def no_worker(reading: Reading) -> Iterator[Finding]:
    """Yield the queues with ripe jobs and without a present worker."""
    known = served(reading)
    for queue, (jobs, age) in unserved(reading).items():
        if age < reading.thresholds.unserved:
            continue
        similar = next(iter(get_close_matches(queue, known, 1)), None)
        typo = (
            f' The most similar queue with a worker is "{similar}": is one of the two names a typo?' if similar else ""
        )
        yield Finding(
            "no-worker",
            "error",
            f'no worker serves queue "{queue}", in which {are_ripe(jobs)}',
            f"These jobs wait until a worker comes; the oldest has waited for {span(age)}.{typo} A worker with "
            "--transaction-pooler is never present: it counts only while it runs jobs of the queue.",
            f"pgq worker MODULE --queue {quote(queue)}",
            {"queue": queue, "ripe": jobs, "oldest_ripe_seconds": age.total_seconds(), "similar_queue": similar},
        )


@check(Needs.READER)
def no_handler(reading: Reading) -> Iterator[Finding]:
    """Yield the kinds that no present worker of their queue handles."""
    known = served(reading)
    for row in reading.kinds:
        workers = known.get(row["queue"], [])
        if row["handled"] is not False or not row["waiting"] or not workers:
            continue
        kinds = sorted({kind for worker in workers for kind in worker["handles"] or ()})
        similar = next(iter(get_close_matches(row["kind"], kinds, 1)), None)
        typo = f' They handle the similar kind "{similar}".' if similar else ""
        yield Finding(
            "no-handler",
            "error",
            f'no present worker of queue "{row["queue"]}" handles kind "{row["kind"]}": '
            f"{number(row['waiting'], 'job')} {'waits' if row['waiting'] == 1 else 'wait'}",
            f"Workers decline such jobs, for longer each time, up to ten minutes; they are not lost.{typo}",
            f"Start a worker with the module that handles {row['kind']!r}, or cancel the jobs: "
            f"pgq cancel --queue {quote(row['queue'])} --kind {quote(row['kind'])}",
            {
                "queue": row["queue"], "kind": row["kind"], "waiting": row["waiting"], "similar_kind": similar,
                "workers": [worker["name"] for worker in workers],
            },
        )  # fmt: skip


@check(Needs.READER)
def late_jobs(reading: Reading) -> Iterator[Finding]:
    """Yield the queues with workers in which a ripe job waits for long."""
    unclaimed = unserved(reading)
    workers = served(reading)
    for queue, (jobs, age) in ripe(reading).items():
        if queue in unclaimed or age < reading.thresholds.late:
            continue
        busy = [worker for worker in workers.get(queue, []) if worker["running"]]
        yield Finding(
            "late-jobs",
            "warning",
            f'the oldest job of queue "{queue}" has waited for {span(age)}, behind or among {number(jobs, "ripe job")}',
            f"The queue gets jobs faster than its workers end them, or something keeps the workers: "
            f"{len(busy)} of {number(len(workers.get(queue, [])), 'present worker')} run jobs.",
            "See with pgq ps what the workers do. Start more of them, raise --concurrency or --processes, or lift the "
            f"limits that pgq queues shows for {queue!r}.",
            {
                "queue": queue, "ripe": jobs, "oldest_ripe_seconds": age.total_seconds(),
                "present_workers": len(workers.get(queue, [])), "busy_workers": len(busy),
            },
        )  # fmt: skip


@check(Needs.READER)
def dead_jobs(reading: Reading) -> Iterator[Finding]:
    """Yield why jobs have died lately, by queue, kind and error."""
    rows = reading.rows(
        "SELECT * FROM pgq_overview_deaths(%(since)s::interval) ORDER BY jobs DESC LIMIT 20",
        since=reading.thresholds.recent,
    )
    for row in rows:
        error = row["error"]
        yield Finding(
            "dead-jobs",
            "warning",
            f'{number(row["jobs"], "job")} of kind "{row["kind"]}" in queue "{row["queue"]}" died within '
            f"{span(reading.thresholds.recent)}: {error or 'the error is not known'}",
            "Their retries are used up, or their handler gave up at once. They are kept, and do not run again by "
            "themselves.",
            f"pgq show {row['newest_job']} shows one with its errors. When the cause is mended: pgq retry --state dead "
            f"--queue {quote(row['queue'])} --kind {quote(row['kind'])}",
            {
                "queue": row["queue"], "kind": row["kind"], "error": error, "jobs": row["jobs"],
                "newest_job": row["newest_job"], "newest_at": row["newest_at"],
            },
        )  # fmt: skip


CHECKS: Final[tuple[Check, ...]] = (no_worker, no_handler, late_jobs, dead_jobs)
