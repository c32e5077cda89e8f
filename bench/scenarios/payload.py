"""Payloads from 100 bytes to 100 kB: enqueue all jobs, then drain them."""

from __future__ import annotations

import time
from functools import partial

from child import Task
from contenders import by_name
from databases import fresh
from harness import Harness
from job import padding
from processes import Processes

from scenarios.drain import fill

NAME = "payload"
ROUNDS = 2
# Bytes, batch, jobs of a full and of a quick run.
SIZES = {
    "100 B": (100, 100, (20_000, 2_000)),
    "1 kB": (1_000, 100, (20_000, 2_000)),
    "10 kB": (10_000, 100, (5_000, 500)),
    "100 kB": (100_000, 10, (1_000, 100)),
}


def run(harness: Harness) -> None:
    for what, (size, batch, jobs) in SIZES.items():
        rates = {name: partial(rate, name, size, batch, harness.pick(*jobs)) for name in ("pgq", "floor")}
        harness.compare(NAME, what, "jobs/s", rates, harness.pick(ROUNDS, 1))


def rate(name: str, size: int, batch: int, jobs: int) -> float:
    """Return jobs per second, enqueue and drain together; a call enqueues as many jobs as a claim takes."""
    contender = by_name(name)
    pad = padding(size)
    with fresh(contender) as database, Processes(contender, Task(database, batch, pad=size)) as children:
        children.wait_ready()
        started = time.monotonic()
        fill(contender, database, jobs, batch, pad)
        seconds = time.monotonic() - started
        return jobs / (seconds + jobs / children.drain(jobs).value)
