"""Handlers that write to the same database: an INSERT for each job, which a transaction of pgq makes exactly once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from child import Task
from contenders import by_name
from databases import connect, fresh, value
from harness import BenchError, Harness, Sample
from processes import Processes

from scenarios.drain import fill

NAME = "transactional"
SINGLE = "one job in a transaction"
GROUPED = "batch=100"
CONCURRENT = "one job in a transaction, --concurrency 8"
CONCURRENT_GROUPED = "batch=100, --concurrency 8"
RELEASE = "0.2.0"


def run(harness: Harness) -> None:
    few, many = harness.pick(4_000, 500), harness.pick(8_000, 1_000)
    compared = {
        SINGLE: {"pgq": (few, Task("")), RELEASE: (few, Task(""))},
        GROUPED: {"pgq": (many, Task("", grouped=100)), RELEASE: (many, Task("", grouped=100))},
        # The INSERT of graphile-worker's handler commits before its job is completed, so it may be made twice.
        CONCURRENT: {"pgq": (many, Task("", concurrency=8)), "graphile": (3 * many, Task(""))},
        CONCURRENT_GROUPED: {
            "pgq": (2 * many, Task("", concurrency=8, grouped=100)),
            "graphile": (3 * many, Task("")),
        },
    }
    for what, contenders in compared.items():
        rates = {name: partial(rate, name, jobs, task) for name, (jobs, task) in contenders.items()}
        harness.compare(NAME, what, "jobs/s", rates)


def rate(name: str, jobs: int, task: Task) -> Sample:
    """Return jobs per second, and what a job has cost; check that each job has taken effect once."""
    contender = by_name("release" if name == RELEASE else name)
    with fresh(contender) as database, connect(database) as conn:
        conn.execute("CREATE TABLE effect (n bigint PRIMARY KEY)")
        with Processes(contender, replace(task, database=database, transaction=True)) as children:
            fill(contender, database, jobs)
            children.wait_ready()
            sample = children.drain(jobs)
        if (effects := value(conn, "SELECT count(*) FROM effect")) != jobs:
            raise BenchError(f"{name}: {effects} effects of {jobs} jobs")
        return sample
