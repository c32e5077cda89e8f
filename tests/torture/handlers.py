"""
The handlers of the torture run.

Each run of a job inserts an effect, which lists the enqueues that it has seen. There are seven kinds; three promise
exactly one effect, and one makes steps exactly once. Flows, and what comes after them, are in flows.py. The arguments
of a job contain its fate, which is what else happens to it:

    none          it succeeds
    fail          its first two attempts fail
    fail always   each attempt fails, until the job is dead
    fail late     the first attempt fails after its effect
    cut           the first attempt loses its connection after its effect
    kill          the first attempt kills its process after its effect
    kill always   each attempt kills its process, with other jobs in hand, until the job is dead
    snooze        it is put back once
    cancel        it is cancelled by its handler
    operator      it is cancelled by an operator while it runs
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg

import pgq
from pgq.cli.databases import names_of
from torture import flows, steps
from torture.pool import Pool

Connection = psycopg.Connection[Any]
BATCH = 10
# Seconds after which a job fails that an operator has cancelled, and whose worker does not learn of it.
GIVE_UP_AFTER = 10.0
local = threading.local()
pool = Pool()


class Failed(Exception):
    """The job fails, because that is its fate."""


# A worker of several databases has the DSN of each.
DSNS = {names_of(dsn)[1]: dsn for dsn in os.environ["PGQ_DSN"].splitlines()}


def dsn_of(job: pgq.Job) -> str:
    """Return the DSN of the job's database."""
    return DSNS[job.database] if job.database is not None else next(iter(DSNS.values()))


@contextmanager
def session(job: pgq.Job) -> Iterator[Connection]:
    """Yield this thread's connection to the job's database, in autocommit mode; a new one after an error."""
    if getattr(local, "conn", None) is None or local.conn.closed:
        local.conn = psycopg.connect(dsn_of(job), autocommit=True, application_name=f"own {os.getpid()}")
    try:
        yield local.conn
    except psycopg.Error:
        local.conn.close()
        raise


@pgq.handler("plain")
def plain(job: pgq.Job) -> None:
    """Take effect at least once."""
    with session(job) as conn:
        work(job, conn)


@pgq.handler("list", batch=BATCH)
def many(jobs: list[pgq.Job]) -> dict[int, Exception | None]:
    """Take effect at least once; return a failure as an exception, or leave it out."""
    results: dict[int, Exception | None] = {}
    for job in jobs:
        try:
            with session(job) as conn:
                work(job, conn)
            results[job.id] = None
        except Failed as error:
            if job.attempt % 2:
                results[job.id] = error
        except Exception as error:
            results[job.id] = error
    return results


@pgq.handler("transaction", transaction=True)
def transactional(job: pgq.Job, conn: Connection) -> None:
    """Take effect exactly once."""
    work(job, conn)


@pgq.handler("batch", transaction=True, batch=BATCH)
def transactional_batch(job: pgq.Job, conn: Connection) -> None:
    """Take effect exactly once."""
    work(job, conn)


@pgq.handler("own")
def own(job: pgq.Job) -> None:
    """Take effect exactly once, in a transaction that the handler opens itself."""
    with session(job) as conn, conn.transaction():
        work(job, conn)
        job.complete(conn)


@pgq.handler("pool")
def pooled(job: pgq.Job) -> None:
    """Take effect at least once, after another process has computed something."""
    try:
        assert pool.compute(job.attempt) == 2**job.attempt
    except (BrokenExecutor, RuntimeError, TimeoutError) as error:
        raise Failed("the process of the pool does not answer") from error
    with session(job) as conn:
        work(job, conn)


@pgq.handler("steps")
def stepwise(job: pgq.Job) -> None:
    """Take effect at least once, and make each step exactly once."""
    with session(job) as conn:
        steps.run(job, conn, lambda: work(job, conn))


@pgq.handler("flow", transaction=True)
def flow(job: pgq.Job, conn: Connection) -> None:
    """Make each step exactly once, and get the signal."""
    flows.run(job, conn)


@pgq.handler("follow", transaction=True)
def follow(job: pgq.Job, conn: Connection) -> None:
    """Run once, after the flows."""
    flows.follow(job, conn)


def work(job: pgq.Job, conn: Connection) -> None:
    """Read the ledger, take some time and insert an effect, unless the job's fate is another."""
    topic, fate = job.args["topic"], job.args["fate"]
    if fate == "snooze" and job.ripe_at - job.enqueued_at < timedelta(seconds=0.1):
        raise pgq.Snooze(delay=timedelta(seconds=0.2))
    if fate == "cancel":
        raise pgq.Cancel("not worth it")
    if fate == "operator":
        with psycopg.connect(dsn_of(job), autocommit=True) as operator:
            operator.execute("SELECT pgq_cancel(%s)", [job.id])
        # All but a list are interrupted.
        give_up_at = time.monotonic() + GIVE_UP_AFTER
        while not job.cancelled and time.monotonic() < give_up_at:
            time.sleep(0.01)
        raise Failed(fate)
    if fate == "kill always":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "fail always" or (fate == "fail" and job.attempt <= 2):
        raise Failed(fate)
    row = conn.execute("SELECT ARRAY(SELECT n FROM torture.ledger WHERE topic = %s)", [topic]).fetchone()
    assert row is not None
    time.sleep(job.args["seconds"])
    conn.execute(
        "INSERT INTO torture.effect VALUES (%s, %s, %s, %s, %s, %s, %s)",
        [job.kind, topic, job.id, job.token, job.attempt, os.getpid(), row[0]],
    )
    if fate == "fail late" and job.attempt == 1:
        raise Failed(fate)
    if fate == "cut" and job.attempt == 1:
        conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    if fate == "kill" and job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
