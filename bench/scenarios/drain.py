"""Drain a full queue with real workers."""

from __future__ import annotations

import contextlib
from functools import partial

from crew import Crew
from databases import connect, fresh
from duty import CHUNK, Task
from harness import Bench
from queues import Contender, by_name

NAME = "drain"
# Full and quick; a worker that takes one job at a time is given less to do.
JOBS = {1: (5_000, 500), 10: (20_000, 2_000), 100: (100_000, 10_000), 300: (100_000, 10_000)}
SLOW_JOBS = (3_000, 500)
PEER_BATCH = 100


def run(bench: Bench) -> None:
    for batch, jobs in JOBS.items():
        for processes in (1, 2):
            if bench.quick and processes == 2 and batch < 100:
                continue
            rates = {name: partial(rate, name, batch, processes, bench.pick(*jobs)) for name in ("pgq", "floor")}
            if batch == PEER_BATCH:
                rates["pgqueuer"] = partial(rate, "pgqueuer", batch, processes, bench.pick(*jobs))
                rates["procrastinate"] = partial(rate, "procrastinate", None, processes, bench.pick(*SLOW_JOBS))
            bench.compare(NAME, what(batch, processes), "jobs/s", rates)


def what(batch: int, processes: int) -> str:
    return f"batch {batch}, {processes} process{'es' if processes > 1 else ''}"


def rate(name: str, batch: int | None, processes: int, jobs: int) -> float:
    """Jobs a second, from the signal to begin until the last one is handled and completed."""
    contender = by_name(name)
    with fresh(contender) as database, Crew(contender, Task(database, batch), processes) as crew:
        fill(contender, database, jobs)
        crew.ready()
        return jobs / crew.drain(jobs)


def fill(contender: Contender, database: str, jobs: int, chunk: int = CHUNK, pad: str = "") -> None:
    """Enqueue the jobs, and let no write of it be left for the one who drains."""
    with contextlib.closing(contender.producer(database)) as producer:
        for first in range(0, jobs, chunk):
            producer.many(first, min(chunk, jobs - first), pad)
    with connect(database) as conn:
        conn.execute("CHECKPOINT")
