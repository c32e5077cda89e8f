"""The handler that ``pgq worker several`` runs for several databases: it counts the jobs of each."""

from __future__ import annotations

import json
import mmap
import os

import pgq

KIND = "job"
TASK = json.loads(os.environ["BENCH_TASK"])
# The places of the databases in the counts, by their names.
PLACES: dict[str | None, int] = TASK["places"]

with open(TASK["counts"], "r+b") as file:
    counts = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")


@pgq.handler(KIND)
def nothing(job: pgq.Job) -> None:
    """Count a job: how many there were, and the sum of their numbers. One thread runs all jobs of a database."""
    place = 2 * PLACES.get(job.database, 0)
    counts[place] += 1
    counts[place + 1] += job.args["n"]
