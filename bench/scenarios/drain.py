"""Drain a full queue with real workers."""

from __future__ import annotations

import contextlib
from functools import partial

from child import Task
from contender import Contender
from contenders import by_name
from databases import connect, fresh
from harness import Harness
from processes import Processes
from roles import CHUNK

NAME = "drain"
# Jobs of a full and of a quick run, by batch. Smaller batches are slower, and get fewer jobs.
JOBS = {1: (5_000, 500), 10: (20_000, 2_000), 100: (100_000, 10_000), 300: (100_000, 10_000)}
SLOW_JOBS = (3_000, 500)
PEER_BATCH = 100


def run(harness: Harness) -> None:
    for batch, jobs in JOBS.items():
        for processes in (1, 2):
            if harness.quick and processes == 2 and batch < 100:
                continue
            rates = {name: partial(rate, name, batch, processes, harness.pick(*jobs)) for name in ("pgq", "floor")}
            if batch == PEER_BATCH:
                rates["pgqueuer"] = partial(rate, "pgqueuer", batch, processes, harness.pick(*jobs))
                rates["procrastinate"] = partial(rate, "procrastinate", None, processes, harness.pick(*SLOW_JOBS))
            harness.compare(NAME, what(batch, processes), "jobs/s", rates)


def what(batch: int, processes: int) -> str:
    return f"batch {batch}, {processes} process{'es' if processes > 1 else ''}"


def rate(name: str, batch: int | None, processes: int, jobs: int) -> float:
    """Return jobs per second, from the start until the last job is completed."""
    contender = by_name(name)
    with fresh(contender) as database, Processes(contender, Task(database, batch), processes) as children:
        fill(contender, database, jobs)
        children.wait_ready()
        return jobs / children.drain(jobs)


def fill(contender: Contender, database: str, jobs: int, chunk: int = CHUNK, pad: str = "") -> None:
    """Enqueue jobs, then checkpoint, so that their writes do not slow down the drain."""
    with contextlib.closing(contender.producer(database)) as producer:
        for first in range(0, jobs, chunk):
            producer.many(first, min(chunk, jobs - first), pad)
    with connect(database) as conn:
        conn.execute("CHECKPOINT")
