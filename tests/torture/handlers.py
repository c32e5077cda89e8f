"""
What the workers of the torture run do.

A job notes in a table which enqueues it has seen, in its own way: five kinds, of which three promise to do it exactly
once. What else happens to it was decided when it was enqueued, and is among its arguments.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg

import pgq

Connection = psycopg.Connection[Any]
BATCH = 10
mine = threading.local()


class Doomed(Exception):
    """The fate of a job is to fail."""


@contextmanager
def session() -> Iterator[Connection]:
    """A connection of the thread's own, in autocommit mode; a new one after an error."""
    if getattr(mine, "conn", None) is None or mine.conn.closed:
        mine.conn = psycopg.connect(os.environ["PGQ_DSN"], autocommit=True, application_name=f"own {os.getpid()}")
    try:
        yield mine.conn
    except psycopg.Error:
        mine.conn.close()
        raise


@pgq.handler("plain")
def plain(job: pgq.Job) -> None:
    """At least once."""
    with session() as conn:
        work(job, conn)


@pgq.handler("list", batch=BATCH)
def many(jobs: list[pgq.Job]) -> dict[int, Exception | None]:
    """At least once; what fails is answered as an exception, or left out."""
    answers: dict[int, Exception | None] = {}
    for job in jobs:
        try:
            with session() as conn:
                work(job, conn)
            answers[job.id] = None
        except Doomed as error:
            if job.attempt % 2:
                answers[job.id] = error
        except Exception as error:
            answers[job.id] = error
    return answers


@pgq.handler("transaction", transaction=True)
def transactional(job: pgq.Job, conn: Connection) -> None:
    """Exactly once."""
    work(job, conn)


@pgq.handler("batch", transaction=True, batch=BATCH)
def transactional_batch(job: pgq.Job, conn: Connection) -> None:
    """Exactly once."""
    work(job, conn)


@pgq.handler("own")
def own(job: pgq.Job) -> None:
    """Exactly once, in a transaction that the worker knows nothing of."""
    with session() as conn, conn.transaction():
        work(job, conn)
        job.complete(conn)


def work(job: pgq.Job, conn: Connection) -> None:
    """Look at the inputs, take some time, and leave an effect, unless it is the job's fate not to."""
    topic, fate = job.args["topic"], job.args["fate"]
    if fate == "snooze" and job.ripe_at - job.enqueued_at < timedelta(seconds=0.1):
        raise pgq.Snooze(delay=timedelta(seconds=0.2))
    if fate == "discard":
        raise pgq.Cancel("not worth it")
    if fate == "doom" or (fate == "fail" and job.attempt <= 2):
        raise Doomed(fate)
    row = conn.execute("SELECT ARRAY(SELECT n FROM torture.ledger WHERE topic = %s)", [topic]).fetchone()
    assert row is not None
    time.sleep(job.args["seconds"])
    conn.execute(
        "INSERT INTO torture.effect VALUES (%s, %s, %s, %s, %s, %s, %s)",
        [job.kind, topic, job.id, job.token, job.attempt, os.getpid(), row[0]],
    )
    if fate == "late" and job.attempt == 1:
        raise Doomed(fate)
    if fate == "cut" and job.attempt == 1:
        conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    if fate == "kill" and job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
