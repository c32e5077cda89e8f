"""The time from the return of the enqueue's COMMIT to the start of the handler, in an idle worker."""

from __future__ import annotations

import contextlib
import random
import time

from child import Task
from contenders import NAMES, by_name
from databases import fresh
from harness import Harness, Unavailable, percentile
from processes import Processes

NAME = "latency"
EVERY = 0.04
PERCENTS = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
# The others take part in the first round only.
COMPARED = ("pgq", "graphile")


def run(harness: Harness) -> None:
    jobs = harness.pick(250, 30)
    waits: dict[str, list[list[float]]] = {name: [] for name in NAMES}
    for number in range(harness.rounds):
        for name in [name for name in waits if number == 0 or name in COMPARED]:
            try:
                waits[name].append(measure(name, jobs))
            except Unavailable as reason:
                harness.notice(f"{NAME}: {name} is left out: {reason}")
                del waits[name]
    for what, percent in PERCENTS.items():
        for name, rounds in waits.items():
            harness.record(NAME, what, name, "ms", [percentile(times, percent) for times in rounds])
        harness.print_ratios(NAME, what)


def measure(name: str, jobs: int) -> list[float]:
    """Return the latency of each job in milliseconds, after a job that is not measured."""
    contender = by_name(name)
    with (
        fresh(contender) as database,
        contextlib.closing(contender.producer(database)) as producer,
        Processes(contender, Task(database), latencies=1 + jobs) as children,
    ):
        children.wait_ready()
        children.start()
        producer.one(0)
        children.wait_for(1)
        committed = []
        for n in range(1, 1 + jobs):
            # Vary the interval, so that no contender polls in step with the producer.
            time.sleep(random.uniform(0.5 * EVERY, 1.5 * EVERY))
            producer.one(n)
            committed.append(time.monotonic_ns())
        children.wait_for(1 + jobs)
        children.stop(children.workers)
        children.verify(1 + jobs)
        return [(children.counters.started[n] - at) / 1e6 for n, at in enumerate(committed, start=1)]
