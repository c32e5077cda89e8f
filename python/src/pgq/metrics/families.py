"""The metrics: what a snapshot of each database becomes, with a bounded number of series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pgq.overview import KindNumbers, Snapshot

# The parts of a snapshot that are read: none has the arguments or errors of jobs.
PARTS: Final = ("kinds", "counters", "ids", "places", "workers")
# What has no series of its own is summed up in these.
OTHER: Final = ("other", "other")
JOBS: Final = {
    "waiting": "Jobs that wait, ripe or not.",
    "ripe": "Waiting jobs whose time has come.",
    "blocked": "Jobs that wait for other jobs.",
    "running": "Jobs that a worker has claimed.",
    "dead": "Jobs that have failed for good and are kept.",
    "cancelled": "Jobs that were given up on purpose and are kept.",
    "done": "Jobs that are done and are kept.",
    "unhandled": "Waiting jobs of kinds for which no present worker has a handler.",
}
JOBS_AT_MOST: Final = {
    "oldest_ripe_age_seconds": "How long the first ripe job has been ripe; 0: none is.",
    "estimated": "Whether the numbers of jobs are estimates, because there are many.",
}
EVER: Final = {
    "claimed": "Attempts that have begun.",
    "done": "Jobs that were completed.",
    "failed": "Attempts that have failed.",
    "dead": "Jobs that have failed for good.",
    "cancelled": "Jobs that were given up on purpose.",
    "merged": "Jobs that became one with their waiting twins.",
    "retried": "Jobs that an operator has put back.",
    "waited_seconds": "How long jobs had been ripe when they were claimed, of all that were claimed.",
    "timed": "Jobs that are done and of which ran_seconds has the times.",
    "ran_seconds": "Times from the claim to the end, of the jobs that were timed.",
}
QUEUE: Final = {
    "paused": "Whether the queue is paused.",
    "paused_groups": "Groups of the queue that are paused by themselves.",
    "full": "Whether a limit or a rate of the queue, or the limit of a group, keeps jobs back.",
}
WORKERS: Final = {
    "present": "Workers whose sessions live.",
    "gone": "Workers that are registered or hold jobs, and are not present.",
    "overdue_jobs": "Jobs that workers hold although their leases have ended.",
}

Pair = tuple[str, ...]
Family = GaugeMetricFamily | CounterMetricFamily


class Bounded:
    """
    Decide which queues and kinds have series of their own: the first ``most``, as long as this object lives.

    So a counter does not move from one series to another between two scrapes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._own: set[Pair] = set()

    def __call__(self, pair: Pair) -> Pair:
        """Return the labels for a pair, or for a queue."""
        other = OTHER[: len(pair)]
        if pair not in self._own:
            if len(self._own) >= self._most or pair == other:
                return other
            self._own.add(pair)
        return pair


class Series:
    """The series of one database; ``most`` bounds its pairs of queue and kind, and its queues."""

    def __init__(self, database: str, most: int) -> None:
        self.database = database
        self._pairs = Bounded(most)
        self._queues = Bounded(most)

    def fill(self, families: Mapping[str, Family], snapshot: Snapshot | None, seconds: float) -> None:
        """Add the samples of a snapshot; None: the database is down."""
        self._add(families, "pgq_up", (), float(snapshot is not None))
        self._add(families, "pgq_reading_seconds", (), seconds)
        if snapshot is None:
            return
        for part in PARTS:
            self._add(families, "pgq_unread", (part,), float(part in snapshot.unknown))
        # Counters come first: they stay when the last job of a kind has ended.
        sums: dict[tuple[str, Pair], float] = {}
        for counters in snapshot.counters:
            labels = self._pairs((counters.queue, counters.kind))
            for name in EVER:
                add(sums, f"pgq_{name}_total", labels, getattr(counters, name))
        for numbers in snapshot.kinds:
            labels = self._pairs((numbers.queue, numbers.kind))
            for name, value in of_kind(numbers).items():
                add(sums, f"pgq_jobs_{name}", labels, value)
            for name, value in of_kind_at_most(numbers).items():
                key = (f"pgq_jobs_{name}", labels)
                sums[key] = max(sums.get(key, 0.0), value)
        for place in snapshot.places:
            labels = self._queues((place.queue,))
            for name in QUEUE:
                add(sums, f"pgq_queue_{name}", labels, float(getattr(place, name)))
        for (name, labels), value in sums.items():
            self._add(families, name, labels, value)
        if snapshot.ids is not None:
            self._add(families, "pgq_ids_total", (), float(snapshot.ids))
        if "workers" not in snapshot.unknown:
            present = sum(1 for worker in snapshot.workers if worker.present)
            self._add(families, "pgq_workers_present", (), present)
            self._add(families, "pgq_workers_gone", (), len(snapshot.workers) - present)
            self._add(families, "pgq_workers_overdue_jobs", (), sum(worker.overdue for worker in snapshot.workers))

    def _add(self, families: Mapping[str, Family], name: str, labels: Pair, value: float) -> None:
        families[name].add_metric([self.database, *labels], value)


def add(sums: dict[tuple[str, Pair], float], name: str, labels: Pair, value: float) -> None:
    """Add a value to its series."""
    sums[name, labels] = sums.get((name, labels), 0.0) + value


def of_kind(numbers: KindNumbers) -> dict[str, float]:
    """Return the numbers of jobs of a kind."""
    unhandled = numbers.waiting if numbers.handled is False else 0
    values: dict[str, Any] = {name: getattr(numbers, name) for name in JOBS if name != "unhandled"}
    return values | {"unhandled": unhandled}


def of_kind_at_most(numbers: KindNumbers) -> dict[str, float]:
    """Return the values of a kind that are not summed up."""
    age = numbers.oldest_ripe_age
    return {
        "oldest_ripe_age_seconds": 0.0 if age is None else age.total_seconds(),
        "estimated": float(numbers.estimated),
    }


def empty_families() -> dict[str, Family]:
    """Return all metrics without samples, by the names of their samples."""
    pair, queue, database = ["database", "queue", "kind"], ["database", "queue"], ["database"]
    gauges: list[tuple[str, str, list[str]]] = [
        ("pgq_up", "Whether the database could be read.", database),
        ("pgq_reading_seconds", "How long the reading of the database has taken.", database),
        ("pgq_unread", "Whether this part could not be read, or not in time.", [*database, "part"]),
        *((f"pgq_jobs_{name}", text, pair) for name, text in (JOBS | JOBS_AT_MOST).items()),
        *((f"pgq_queue_{name}", text, queue) for name, text in QUEUE.items()),
        *((f"pgq_workers_{name}", text, database) for name, text in WORKERS.items()),
    ]
    counters = [
        *((f"pgq_{name}", text, pair) for name, text in EVER.items()),
        ("pgq_ids", "Numbers that jobs have drawn, duplicates and what was rolled back among them.", database),
    ]
    found: dict[str, Family] = {name: GaugeMetricFamily(name, text, labels=labels) for name, text, labels in gauges}
    found |= {f"{name}_total": CounterMetricFamily(name, text, labels=labels) for name, text, labels in counters}
    return found


def families(readings: Iterable[tuple[Series, Snapshot | None, float]]) -> Iterator[Metric]:
    """Yield the metrics of databases: of each its series, its snapshot, and how many seconds that has taken."""
    found = empty_families()
    for series, snapshot, seconds in readings:
        series.fill(found, snapshot, seconds)
    yield from found.values()
