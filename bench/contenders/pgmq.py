"""pgmq, through its Python client, with the SQL that this carries: messages are read in batches, and deleted."""

from __future__ import annotations

import time

import psycopg
from child import Child
from contender import Contender
from job import args
from pgmq import PGMQueue, install_pgmq_from_sql
from psycopg_pool import ConnectionPool

QUEUE = "bench"
BATCH = 100
VISIBLE_AFTER = 300
POLL = 0.1
LEFT = f"SELECT count(*) FROM pgmq.q_{QUEUE}"


class Producer:
    """Its send and send_batch."""

    def __init__(self, database: str) -> None:
        self.pool = pool(database)
        self.queue = PGMQueue(pool=self.pool, init_extension=False)

    def one(self, n: int) -> None:
        self.queue.send(QUEUE, args(n))

    def many(self, first: int, count: int, pad: str = "") -> None:
        self.queue.send_batch(QUEUE, [args(n, pad) for n in range(first, first + count)])

    def close(self) -> None:
        self.pool.close()


def pool(database: str) -> ConnectionPool:
    """Return its pool, with a single connection."""
    return ConnectionPool(f"dbname={database}", min_size=1, max_size=1, open=True)


def install(database: str) -> None:
    with psycopg.connect(dbname=database) as conn:
        install_pgmq_from_sql(conn=conn)
        conn.execute("SELECT pgmq.create(%s)", [QUEUE])


def work(child: Child) -> None:
    with pool(child.task.database) as connections:
        queue = PGMQueue(pool=connections, init_extension=False)
        child.ready()
        while not child.stopped:
            messages = queue.read_batch(QUEUE, vt=VISIBLE_AFTER, batch_size=child.task.batch or BATCH)
            for message in messages:
                child.handle(message.message)
            if messages:
                queue.delete_batch(QUEUE, [message.msg_id for message in messages])
            else:
                time.sleep(POLL)


CONTENDER = Contender("pgmq", LEFT, install, Producer, work)
