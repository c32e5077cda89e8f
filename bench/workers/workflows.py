"""The workflow that ``pgq worker workflows`` runs in the benchmarks."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
from counting import KIND, TASK, count

import pgq

lock = threading.Lock()
STEPS = ("charge", "reserve", "ship")


def key(n: int, step: str) -> str:
    return f"{step} {n}"


if TASK["transaction"]:

    @pgq.handler(KIND, transaction=True)
    def write(job: pgq.Job, conn: psycopg.Connection[Any]) -> None:
        def insert(n: int, step: str) -> str:
            conn.execute("INSERT INTO effect (n, step) VALUES (%s, %s)", [n, step])
            return key(n, step)

        for step in STEPS:
            job.step(step, insert, job.args["n"], step)
        with lock:
            count(job.args)

else:

    @pgq.handler(KIND)
    def compute(job: pgq.Job) -> None:
        for step in STEPS:
            job.step(step, key, job.args["n"], step)
        with lock:
            count(job.args)
