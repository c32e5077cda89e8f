"""The time from the return of the enqueue's COMMIT to the start of the handler, in an idle worker."""

from __future__ import annotations

import contextlib
import random
import time

from child import Task
from contenders import NAMES, by_name
from databases import fresh
from harness import Harness, percentile
from processes import Processes

NAME = "latency"
EVERY = 0.05
PERCENTS = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}


def run(harness: Harness) -> None:
    jobs = harness.pick(250, 30)
    waits: dict[str, list[list[float]]] = {name: [] for name in NAMES}
    for _ in range(harness.rounds):
        for name, rounds in waits.items():
            rounds.append(measure(name, jobs))
    for what, percent in PERCENTS.items():
        for name, rounds in waits.items():
            harness.record(NAME, what, name, "ms", [percentile(times, percent) for times in rounds])


def measure(name: str, jobs: int) -> list[float]:
    """Return the latency of each job in milliseconds."""
    contender = by_name(name)
    with (
        fresh(contender) as database,
        contextlib.closing(contender.producer(database)) as producer,
        Processes(contender, Task(database), latencies=jobs) as children,
    ):
        children.wait_ready()
        children.start()
        time.sleep(1)
        committed = []
        for n in range(jobs):
            # Vary the interval, so that no contender polls in step with the producer.
            time.sleep(random.uniform(0.5 * EVERY, 1.5 * EVERY))
            producer.one(n)
            committed.append(time.monotonic_ns())
        children.wait_for(jobs)
        children.stop(children.workers)
        children.verify(jobs)
        return [(children.counters.started[n] - at) / 1e6 for n, at in enumerate(committed)]
