"""pgq, through its driver."""

from __future__ import annotations

from typing import Any

import psycopg
from child import Child
from contender import Contender
from job import KIND, args

import pgq
import pgq.schema.install

ENQUEUE_MANY = "SELECT id, created FROM pgq_enqueue_many(%s::jsonb) ORDER BY n"


class Producer:
    """The driver's own calls."""

    def __init__(self, database: str) -> None:
        self.conn = psycopg.connect(dbname=database, autocommit=True)
        self.queue = pgq.Queue(self.conn)

    def one(self, n: int) -> None:
        self.queue.enqueue(KIND, args(n))

    def many(self, first: int, count: int, pad: str = "") -> None:
        self.queue.enqueue_many({"kind": KIND, "args": args(n, pad)} for n in range(first, first + count))

    def close(self) -> None:
        self.conn.close()


def install(database: str) -> None:
    with psycopg.connect(dbname=database, autocommit=True) as conn:
        pgq.schema.install.install(conn)


def work(child: Child) -> None:
    task = child.task
    handlers = pgq.Handlers()

    if task.transaction:

        @handlers.handler(KIND, transaction=True)
        def insert(job: pgq.Job, conn: psycopg.Connection[Any]) -> None:
            conn.execute("INSERT INTO effect (n) VALUES (%s)", [job.args["n"]])
            child.handle(job.args)

    else:

        @handlers.handler(KIND)
        def count(job: pgq.Job) -> None:
            child.handle(job.args)

    conninfo = psycopg.conninfo.make_conninfo(dbname=task.database, host=task.host)
    options: dict[str, Any] = {} if task.batch is None else {"batch": task.batch}
    worker = pgq.Worker(conninfo, handlers, **options)
    # Connect before the clock starts.
    worker.loops[0].session.queue()
    child.ready(worker.stop)
    worker.run()


LEFT = "SELECT (SELECT count(*) FROM pgq_waiting) + (SELECT count(*) FROM pgq_running)"
CONTENDER = Contender("pgq", LEFT, install, Producer, work)
