"""
Absurd: tasks of three steps, through its Python SDK, with the SQL that its command carries.

Its page on the Python SDK recommends processes for more tasks at a time: a process has a single connection. So a worker
runs one task at a time, of 100 that it claims at once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import absurdctl
import psycopg
from absurd_sdk import Absurd
from child import Child
from contender import Contender
from job import KIND, STEPS, args, key

QUEUE = "bench"
BATCH = 100


class Producer:
    """Its spawn; many tasks in a transaction of the caller's."""

    def __init__(self, database: str) -> None:
        self.conn = psycopg.connect(dbname=database, autocommit=True)
        self.app = Absurd(self.conn, queue_name=QUEUE)

    def one(self, n: int) -> None:
        self.app.spawn(KIND, args(n), queue=QUEUE)

    def many(self, first: int, count: int, pad: str = "") -> None:
        with self.conn.transaction():
            for n in range(first, first + count):
                self.app.spawn(KIND, args(n, pad), queue=QUEUE)

    def close(self) -> None:
        self.conn.close()


def install(database: str) -> None:
    with psycopg.connect(dbname=database, autocommit=True) as conn:
        conn.execute(absurdctl.BUNDLED_SCHEMA_SQL)
        Absurd(conn, queue_name=QUEUE).create_queue()


def work(child: Child) -> None:
    with psycopg.connect(dbname=child.task.database, autocommit=True) as conn:
        app = Absurd(conn, queue_name=QUEUE)

        def insert(n: int, name: str) -> str:
            conn.execute("INSERT INTO effect (n, step) VALUES (%s, %s)", [n, name])
            return key(n, name)

        run_step = insert if child.task.transaction else key

        def workflow(given: dict[str, Any], context: Any) -> None:
            for name in STEPS:
                context.step(name, partial(run_step, given["n"], name))
            child.handle(given)

        app.register_task(KIND)(workflow)
        child.ready(app.stop_worker)
        app.start_worker(batch_size=BATCH)


LEFT = f"SELECT count(*) FROM absurd.t_{QUEUE} WHERE state IN ('pending', 'running', 'sleeping')"
CONTENDER = Contender("absurd", LEFT, install, Producer, work)
