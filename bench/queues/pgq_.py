"""pgq, through its driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

import pgq
from pgq.schema.install import install
from queues.payload import KIND, args

if TYPE_CHECKING:
    from duty import Duty

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


class Pgq:
    name = "pgq"
    left = "SELECT (SELECT count(*) FROM pgq_waiting) + (SELECT count(*) FROM pgq_running)"

    def install(self, database: str) -> None:
        with psycopg.connect(dbname=database, autocommit=True) as conn:
            install(conn)

    def producer(self, database: str) -> Producer:
        return Producer(database)

    def work(self, duty: Duty) -> None:
        handlers = pgq.Handlers()

        if duty.task.transaction:

            @handlers.handler(KIND, transaction=True)
            def insert(job: pgq.Job, conn: psycopg.Connection[Any]) -> None:
                conn.execute("INSERT INTO effect (n) VALUES (%s)", [job.args["n"]])
                duty.handle(job.args)

        else:

            @handlers.handler(KIND)
            def count(job: pgq.Job) -> None:
                duty.handle(job.args)

        task = duty.task
        conninfo = psycopg.conninfo.make_conninfo(dbname=task.database, host=task.host)
        options: dict[str, Any] = {} if task.batch is None else {"batch": task.batch}
        worker = pgq.Worker(conninfo, handlers, **options)
        worker.loops[0].session.queue()
        duty.ready(worker.stop)
        worker.run()


CONTENDER = Pgq()
