"""Drain a full queue of jobs that do nothing: ``pgq worker`` without options, and graphile-worker's fastest preset."""

from __future__ import annotations

import contextlib
from functools import partial

from child import Task
from contender import Contender
from contenders import by_name
from databases import connect, fresh
from harness import Harness, Sample, Unavailable
from processes import Processes
from servers import other_server

NAME = "drain"
CONTENDERS = ("pgq", "graphile")
JOBS = (200_000, 20_000)
PROCESSES = (1, 2)
OTHER = "15"
# Jobs of a call that fills a queue.
FILL = 5_000


def run(harness: Harness) -> None:
    compare(harness)
    try:
        with other_server(OTHER):
            compare(harness, OTHER)
    except Unavailable as reason:
        harness.notice(f"{NAME}: PostgreSQL {OTHER} is left out: {reason}")


def compare(harness: Harness, major: str = "") -> None:
    for processes in PROCESSES:
        rates = {name: partial(rate, name, harness.pick(*JOBS), processes) for name in CONTENDERS}
        harness.compare(NAME, what(processes, major), "jobs/s", rates)


def what(processes: int, major: str = "") -> str:
    return f"{processes} process{'es' if processes > 1 else ''}{f', PostgreSQL {major}' if major else ''}"


def rate(name: str, jobs: int, processes: int = 1, batch: int | None = None) -> Sample:
    """Return jobs per second, and what a job has cost."""
    contender = by_name(name)
    with fresh(contender) as database, Processes(contender, Task(database, batch), processes) as children:
        fill(contender, database, jobs)
        children.wait_ready()
        return children.drain(jobs)


def fill(contender: Contender, database: str, jobs: int, chunk: int = FILL, pad: str = "") -> None:
    """Enqueue jobs, then checkpoint, so that their writes do not slow down the drain."""
    with contextlib.closing(contender.producer(database)) as producer:
        for first in range(0, jobs, chunk):
            producer.many(first, min(chunk, jobs - first), pad)
    with connect(database) as conn:
        conn.execute("CHECKPOINT")
