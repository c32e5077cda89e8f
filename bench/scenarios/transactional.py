"""Handlers that write to the same database: each INSERT and the completion of its job are one transaction."""

from __future__ import annotations

from functools import partial

from child import Task
from contenders import by_name
from databases import connect, fresh, value
from harness import BenchError, Harness
from processes import Processes

from scenarios.drain import fill

NAME = "transactional"


def run(harness: Harness) -> None:
    jobs = harness.pick(10_000, 1_000)
    for batch in (1, 100):
        # The floor takes one job at a time in both cases: with more, a transaction would hold several jobs.
        rates = {"pgq": partial(rate, "pgq", batch, jobs), "floor": partial(rate, "floor", 1, jobs)}
        harness.compare(NAME, f"batch {batch}", "jobs/s", rates)


def rate(name: str, batch: int, jobs: int) -> float:
    """Return jobs per second; check that each job has taken effect once."""
    contender = by_name(name)
    with fresh(contender) as database, connect(database) as conn:
        conn.execute("CREATE TABLE effect (n bigint PRIMARY KEY)")
        with Processes(contender, Task(database, batch, transaction=True)) as children:
            fill(contender, database, jobs)
            children.wait_ready()
            seconds = children.drain(jobs)
        if (effects := value(conn, "SELECT count(*) FROM effect")) != jobs:
            raise BenchError(f"{name}: {effects} effects of {jobs} jobs")
        return jobs / seconds
