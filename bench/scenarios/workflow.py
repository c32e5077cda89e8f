"""
Workflows of three steps on a full queue: their speed with pgq, DBOS and Absurd, and the commits of a step.

A step returns a short text, or also inserts a row: with pgq and with a datasource of DBOS exactly once, with Absurd,
which commits the row before the step, at least once.
"""

from __future__ import annotations

import time
from functools import partial

from child import Task
from contenders import by_name
from databases import Connection, connect, fresh, value
from harness import BenchError, Harness, Sample
from job import STEPS
from processes import Processes

from scenarios.drain import fill

NAME = "workflow"
PROCESSES = (1, 2)
PEERS = ("dbos", "absurd")
# The contender that is compared as pgq.
OURS = "flow"
# Workflows that a worker of pgq runs at a time, so that their commits share the writes to the disk. More of them cost
# more than they bring where two workers and the server share two cores.
CONCURRENCY = 3
ROUNDS = 3
EFFECTS = "CREATE TABLE effect (n bigint, step text, PRIMARY KEY (n, step))"
COMMITS = "commits of a step"
COMMITTED = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
CLOSED_AFTER = 10.0


def run(harness: Harness) -> None:
    jobs = {"pgq": harness.pick(8_000, 2_000), **dict.fromkeys(PEERS, harness.pick(2_000, 1_000))}
    for writes in (False, True):
        for processes in PROCESSES:
            commits: dict[str, list[float]] = {name: [] for name in jobs}
            rates = {
                name: partial(rate, name, jobs[name], processes, writes=writes, commits=commits[name]) for name in jobs
            }
            compared = what(processes, writes=writes)
            harness.compare(NAME, compared, "jobs/s", rates, harness.pick(ROUNDS, 1))
            for name, counts in commits.items():
                harness.record(NAME, f"{COMMITS}, {compared}", name, "commits", counts)


def what(processes: int, *, writes: bool) -> str:
    return f"steps that {'write' if writes else 'return'}, {processes} process{'es' if processes > 1 else ''}"


def rate(name: str, jobs: int, processes: int, *, writes: bool, commits: list[float]) -> Sample:
    """
    Return workflows per second and their cost; add the commits of a step to ``commits``.

    The commits are those of the workers, from their start to their end.
    """
    ours = name == "pgq"
    contender = by_name(OURS if ours else name)
    with fresh(contender) as database, connect(database) as conn:
        conn.execute(EFFECTS)
        fill(contender, database, jobs)
        before = committed(conn)
        task = Task(database, transaction=writes, concurrency=CONCURRENCY if ours else None)
        with Processes(contender, task, processes) as children:
            children.wait_ready()
            sample = children.drain(jobs)
        commits.append((committed(conn) - before) / (jobs * len(STEPS)))
        if writes and (effects := value(conn, "SELECT count(*) FROM effect")) != jobs * len(STEPS):
            raise BenchError(f"{name}: {effects} effects of {jobs} workflows")
    return sample


def committed(conn: Connection) -> int:
    """Return how many transactions have committed, when the other sessions have ended: these then count all theirs."""
    deadline = time.monotonic() + CLOSED_AFTER
    while value(conn, OTHERS):
        if time.monotonic() > deadline:
            raise BenchError("a session of a worker that was stopped does not end")
        time.sleep(0.02)
    return int(value(conn, COMMITTED))
