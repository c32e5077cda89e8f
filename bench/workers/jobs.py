"""The handlers that ``pgq worker jobs`` runs in the benchmarks, under any release of pgq."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
from counting import KIND, TASK, count

import pgq

lock = threading.Lock()

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
