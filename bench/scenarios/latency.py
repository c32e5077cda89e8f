"""How soon an idle worker begins a job: from the return of the enqueue's COMMIT to the start of the handler."""

from __future__ import annotations

import contextlib
import random
import time

from crew import Crew
from databases import fresh
from duty import Task
from harness import Bench, percentile
from queues import MODULES, by_name

NAME = "latency"
EVERY = 0.05
PERCENTS = {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}


def run(bench: Bench) -> None:
    jobs = bench.pick(250, 30)
    waits: dict[str, list[list[float]]] = {name: [] for name in MODULES}
    for _ in range(bench.rounds):
        for name, rounds in waits.items():
            rounds.append(measure(name, jobs))
    for what, percent in PERCENTS.items():
        for name, rounds in waits.items():
            bench.record(NAME, what, name, "ms", [percentile(one, percent) for one in rounds])


def measure(name: str, jobs: int) -> list[float]:
    """Milliseconds, one for each job."""
    contender = by_name(name)
    with (
        fresh(contender) as database,
        contextlib.closing(contender.producer(database)) as producer,
        Crew(contender, Task(database), latencies=jobs) as crew,
    ):
        crew.ready()
        crew.go()
        time.sleep(1)
        committed = []
        for n in range(jobs):
            # A jitter, so that no contender polls in step with the producer.
            time.sleep(random.uniform(0.5 * EVERY, 1.5 * EVERY))
            producer.one(n)
            committed.append(time.monotonic_ns())
        crew.wait_for(jobs)
        crew.stop(crew.members)
        crew.verify(jobs)
        return [(crew.counters.started[n] - at) / 1e6 for n, at in enumerate(committed)]
