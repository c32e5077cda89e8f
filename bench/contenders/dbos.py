"""
DBOS: workflows of three steps on a queue.

Of its own means against idle workers, those that are fastest here: a worker runs 100 workflows at a time in threads, as
Queues & Concurrency describes it, and looks for more ten times a second. The settings of the queue benchmark that its
authors publish (dbos_queue.py in dbos-inc/dbos-postgres-benchmark: coroutines, 1,000 at a time, a pool of five
connections, one look a second) are slower on a machine of two cores. Steps that write are transactions of a datasource,
as Transactions & Datasources recommends, at the isolation level of pgq's handlers; its default is SERIALIZABLE.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

from child import Child
from contender import Contender
from dbos import DBOS, DBOSClient, DBOSConfig, SQLAlchemyDatasource
from job import KIND, STEPS, args, key
from sqlalchemy import create_engine, text

QUEUE = "bench"
APPLICATION = "bench"
CONCURRENCY = 100
POLL = 0.1


def url(database: str) -> str:
    """Return the address of a database in the form that SQLAlchemy takes; libpq's variables name the server."""
    return f"postgresql+psycopg:///{database}"


class Producer:
    """Its client; many workflows in a transaction of the caller's."""

    def __init__(self, database: str) -> None:
        self.client = DBOSClient(system_database_url=url(database), application_name=APPLICATION)
        self.engine = create_engine(url(database))
        self.options: Any = {"queue_name": QUEUE, "workflow_name": KIND}

    def one(self, n: int) -> None:
        self.client.enqueue(self.options, args(n))

    def many(self, first: int, count: int, pad: str = "") -> None:
        with self.engine.begin() as conn:
            for n in range(first, first + count):
                self.client.enqueue_in_transaction(conn, self.options, args(n, pad))

    def close(self) -> None:
        self.engine.dispose()
        self.client.destroy()


def launch(database: str) -> None:
    config: DBOSConfig = {
        "name": APPLICATION,
        "system_database_url": url(database),
        "executor_id": str(os.getpid()),
        "application_version": "1",
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()


def install(database: str) -> None:
    launch(database)
    DBOS.register_queue(QUEUE, worker_concurrency=CONCURRENCY, polling_interval_sec=POLL)
    DBOS.destroy()


def work(child: Child) -> None:
    stopped, lock = threading.Event(), threading.Lock()
    child.ready(stopped.set)
    run_step = transaction(child.task.database) if child.task.transaction else DBOS.step()(key)

    def workflow(given: dict[str, Any]) -> None:
        for name in STEPS:
            run_step(given["n"], name)
        with lock:
            child.handle(given)

    DBOS.workflow(name=KIND)(workflow)
    launch(child.task.database)
    stopped.wait()
    DBOS.destroy()


def transaction(database: str) -> Callable[[int, str], str]:
    """Return a step that writes in a transaction, which also records it."""
    source = SQLAlchemyDatasource.create(url(database))
    insert = text("INSERT INTO effect (n, step) VALUES (:n, :step)")

    def write(n: int, step: str) -> str:
        source.sql_session().execute(insert, {"n": n, "step": step})
        return key(n, step)

    made: Callable[[int, str], str] = source.transaction(isolation_level="READ COMMITTED")(write)
    return made


LEFT = "SELECT count(*) FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING')"
CONTENDER = Contender("dbos", LEFT, install, Producer, work)
