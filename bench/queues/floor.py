"""The floor: the least that anyone could do by hand. No lease, no dedup, no retries, no order but that of the ids."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg

from queues.payload import KIND, array

if TYPE_CHECKING:
    from duty import Duty

TABLE = "CREATE TABLE floor (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload jsonb NOT NULL)"
ENQUEUE_MANY = "INSERT INTO floor (payload) SELECT value FROM jsonb_array_elements(%s::jsonb)"
TAKE = (
    "DELETE FROM floor WHERE id IN (SELECT id FROM floor ORDER BY id FOR UPDATE SKIP LOCKED LIMIT %s) "
    "RETURNING id, payload"
)
# With statistics of the wrong moment the planner reads the whole table for each batch.
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


class Floor:
    name = "floor"
    left = "SELECT count(*) FROM floor"

    def install(self, database: str) -> None:
        with psycopg.connect(dbname=database, autocommit=True) as conn:
            conn.execute(TABLE)

    def producer(self, database: str) -> Producer:
        return Producer(database)

    def work(self, duty: Duty) -> None:
        with psycopg.connect(dbname=duty.task.database) as conn:

            def insert(args: dict[str, Any]) -> None:
                conn.execute("INSERT INTO effect (n) VALUES (%s)", [args["n"]])
                duty.handle(args)

            handlers: dict[str, Callable[[dict[str, Any]], None]] = {
                KIND: insert if duty.task.transaction else duty.handle
            }
            conn.execute(STEADY_PLAN)
            conn.commit()
            duty.ready()
            while not duty.stopped:
                rows = conn.execute(TAKE, [duty.task.batch or 1]).fetchall()
                for _, payload in rows:
                    handlers[payload["kind"]](payload["args"])
                conn.commit()
                if not rows:
                    time.sleep(POLL)


CONTENDER = Floor()
