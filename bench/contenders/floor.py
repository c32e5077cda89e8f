"""The floor: the least that a queue written by hand can do. No lease, no dedup, no retries, order by id only."""

from __future__ import annotations

import time
from typing import Any

import psycopg
from child import Child
from contender import Contender
from job import KIND, array

TABLE = "CREATE TABLE floor (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload jsonb NOT NULL)"
ENQUEUE_MANY = "INSERT INTO floor (payload) SELECT value FROM jsonb_array_elements(%s::jsonb)"
TAKE = (
    "DELETE FROM floor WHERE id IN (SELECT id FROM floor ORDER BY id FOR UPDATE SKIP LOCKED LIMIT %s) "
    "RETURNING id, payload"
)
# With statistics taken at the wrong moment the planner reads the whole table for each batch.
STEADY_PLAN = "SET enable_seqscan = off"
POLL = 0.01


class Producer:
    """Plain INSERTs."""

    def __init__(self, database: str) -> None:
        self.conn = psycopg.connect(dbname=database, autocommit=True)

    def one(self, n: int) -> None:
        self.many(n, 1)

    def many(self, first: int, count: int, pad: str = "") -> None:
        self.conn.execute(ENQUEUE_MANY, [array(first, count, pad)])

    def close(self) -> None:
        self.conn.close()


def install(database: str) -> None:
    with psycopg.connect(dbname=database, autocommit=True) as conn:
        conn.execute(TABLE)


def work(child: Child) -> None:
    with psycopg.connect(dbname=child.task.database) as conn:

        def insert(args: dict[str, Any]) -> None:
            conn.execute("INSERT INTO effect (n) VALUES (%s)", [args["n"]])
            child.handle(args)

        handlers = {KIND: insert if child.task.transaction else child.handle}
        conn.execute(STEADY_PLAN)
        conn.commit()
        child.ready()
        while not child.stopped:
            rows = conn.execute(TAKE, [child.task.batch or 1]).fetchall()
            for _, payload in rows:
                handlers[payload["kind"]](payload["args"])
            conn.commit()
            if not rows:
                time.sleep(POLL)


CONTENDER = Contender("floor", "SELECT count(*) FROM floor", install, Producer, work)
