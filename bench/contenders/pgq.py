"""pgq: the command ``pgq worker`` as users start it, with its log in a file; and the driver's own enqueue."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import psycopg
from child import Child
from contender import Contender
from job import KIND, args
from programs import run

import pgq
import pgq.schema.install

ENQUEUE_MANY = "SELECT id, created FROM pgq_enqueue_many(%s::jsonb) ORDER BY n"
LEFT = "SELECT count(*) FROM pgq_jobs WHERE state IN ('waiting', 'running')"


class Producer:
    """The driver's own calls; ``many`` enqueues jobs that differ from ``job`` in their arguments only."""

    def __init__(self, database: str, job: pgq.NewJob | None = None) -> None:
        self.conn = psycopg.connect(dbname=database, autocommit=True)
        self.queue = pgq.Queue(self.conn)
        self.job: pgq.NewJob = job or {"kind": KIND}

    def one(self, n: int) -> None:
        self.queue.enqueue(KIND, args(n))

    def many(self, first: int, count: int, pad: str = "") -> None:
        self.queue.enqueue_many({**self.job, "args": args(n, pad)} for n in range(first, first + count))

    def close(self) -> None:
        self.conn.close()


def install(database: str) -> None:
    with psycopg.connect(dbname=database, autocommit=True) as conn:
        pgq.schema.install.install(conn)


def work(child: Child) -> None:
    command(child, {})


def command(child: Child, env: Mapping[str, str], module: str = "jobs") -> None:
    """Run ``pgq worker`` with the handlers of a module, in an environment that may name another release of pgq."""
    task = child.task
    options = {"--batch": task.batch, "--concurrency": task.concurrency}
    given = [part for option, value in options.items() if value for part in (option, str(value))]
    dsn = psycopg.conninfo.make_conninfo(dbname=task.database, host=task.host)
    run(child, [sys.executable, "-m", "pgq", "worker", *given, module], {"PGQ_DSN": dsn, **env})


CONTENDER = Contender("pgq", LEFT, install, Producer, work)
