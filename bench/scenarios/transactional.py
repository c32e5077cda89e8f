"""Handlers that write to the same database: one INSERT and the completion of the job in one transaction each."""

from __future__ import annotations

from functools import partial

from crew import Crew
from databases import connect, fresh, value
from duty import Task
from harness import Bench, BenchError
from queues import by_name

from scenarios.drain import fill

NAME = "transactional"


def run(bench: Bench) -> None:
    jobs = bench.pick(10_000, 1_000)
    for batch in (1, 100):
        # The floor deletes one job a transaction in both: a larger one would not be a transaction for each job.
        rates = {"pgq": partial(rate, "pgq", batch, jobs), "floor": partial(rate, "floor", 1, jobs)}
        bench.compare(NAME, f"batch {batch}", "jobs/s", rates)


def rate(name: str, batch: int, jobs: int) -> float:
    contender = by_name(name)
    with fresh(contender) as database, connect(database) as conn:
        conn.execute("CREATE TABLE effect (n bigint PRIMARY KEY)")
        with Crew(contender, Task(database, batch, transaction=True)) as crew:
            fill(contender, database, jobs)
            crew.ready()
            seconds = crew.drain(jobs)
        if (effects := value(conn, "SELECT count(*) FROM effect")) != jobs:
            raise BenchError(f"{name}: {effects} effects of {jobs} jobs")
        return jobs / seconds
