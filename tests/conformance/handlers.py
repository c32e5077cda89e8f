"""The handlers of the Python worker that the conformance program tests."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

import pgq

WRITE = "INSERT INTO conformance_effect (job, n, value) VALUES (%s, %s, %s)"


def effect(job: pgq.Job, conn: psycopg.Connection[Any]) -> None:
    """Write the effect of a job."""
    conn.execute(WRITE, [job.id, job.args["n"], Jsonb(job.args.get("value"))])


@pgq.handler("conformance.write", transaction=True)
def write(job: pgq.Job, conn: psycopg.Connection[Any]) -> None:
    """Write the effect in the transaction that completes the job."""
    effect(job, conn)


@pgq.handler("conformance.slow")
def slow(job: pgq.Job) -> None:
    """Work for some seconds outside of a transaction, then write the effect and complete the job in one."""
    time.sleep(job.args["seconds"])
    with psycopg.connect(os.environ["PGQ_DSN"]) as conn:
        effect(job, conn)
        job.complete(conn)


@pgq.handler("conformance.fail")
def fail(job: pgq.Job) -> None:
    """Fail."""
    raise ValueError(job.args["message"])


@pgq.handler("conformance.snooze", transaction=True)
def snooze(job: pgq.Job, conn: psycopg.Connection[Any]) -> None:
    """Put the job back until its time has come, then write the effect."""
    until = datetime.fromtimestamp(job.args["until"], UTC)
    if datetime.now(UTC) < until:
        raise pgq.Snooze(until=until)
    effect(job, conn)
