"""The handlers that ``pgq worker jobs`` runs in the benchmarks, under any release of pgq."""

from __future__ import annotations

import json
import mmap
import os
import threading
import time
from typing import Any

import psycopg

import pgq

KIND = "job"
TASK = json.loads(os.environ["BENCH_TASK"])
PAD: int = TASK["pad"]
TIMES: int = TASK["times"]

with open(TASK["counts"], "r+b") as file:
    counts = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
lock = threading.Lock()


def count(args: dict[str, Any]) -> None:
    """Count a job: how many there were, and the sum of their numbers."""
    n = args["n"]
    if PAD and len(args["pad"]) != PAD:
        raise ValueError(f"the payload of job {n} is truncated")
    if TIMES:
        counts[2 + n] = time.monotonic_ns()
    counts[1] += n
    counts[0] += 1


if TASK["transaction"]:

    @pgq.handler(KIND, transaction=True, batch=TASK["grouped"])
    def insert(job: pgq.Job, conn: psycopg.Connection[Any]) -> None:
        conn.execute("INSERT INTO effect (n) VALUES (%s)", [job.args["n"]])
        # With --concurrency, several threads count.
        with lock:
            count(job.args)

else:

    @pgq.handler(KIND)
    def nothing(job: pgq.Job) -> None:
        count(job.args)
