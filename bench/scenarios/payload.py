"""Payloads from 100 bytes to 100 kB: enqueue all, then drain all."""

from __future__ import annotations

import time
from functools import partial

from crew import Crew
from databases import fresh
from duty import Task
from harness import Bench
from queues import by_name
from queues.payload import padding

from scenarios.drain import fill

NAME = "payload"
# Name: bytes, batch, jobs in a full and in a quick run.
SIZES = {
    "100 B": (100, 100, (20_000, 2_000)),
    "1 kB": (1_000, 100, (20_000, 2_000)),
    "10 kB": (10_000, 100, (5_000, 500)),
    "100 kB": (100_000, 10, (1_000, 100)),
}


def run(bench: Bench) -> None:
    for what, (size, batch, jobs) in SIZES.items():
        rates = {name: partial(rate, name, size, batch, bench.pick(*jobs)) for name in ("pgq", "floor")}
        bench.compare(NAME, what, "jobs/s", rates)


def rate(name: str, size: int, batch: int, jobs: int) -> float:
    """Jobs a second through the whole queue, enqueued as many at a time as they are claimed."""
    contender = by_name(name)
    pad = padding(size)
    with fresh(contender) as database, Crew(contender, Task(database, batch, pad=size)) as crew:
        crew.ready()
        started = time.monotonic()
        fill(contender, database, jobs, batch, pad)
        return jobs / (time.monotonic() - started + crew.drain(jobs))
