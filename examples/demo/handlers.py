"""The handlers of the demo, run by two `pgq worker` processes."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

import pgq


@pgq.handler("checksum", transaction=True)
def checksum(job: pgq.Job, conn: psycopg.Connection[Any]) -> None:
    """Write the digest of a file in the transaction that completes the job: exactly once."""
    digest = hashlib.sha256(Path(job.args["path"]).read_bytes()).hexdigest()
    table = sql.Identifier(os.environ["PGQ_SCHEMA"], "digest")
    conn.execute(
        sql.SQL("INSERT INTO {} (path, sha256, attempt) VALUES (%s, %s, %s)").format(table),
        [job.args["path"], digest, job.attempt],
    )


@pgq.handler("reminder")
def reminder(job: pgq.Job) -> str:
    """Return a result: a job with a result stays in pgq_jobs as done."""
    return f"remember {job.args['what']}"


@pgq.handler("flaky")
def flaky(job: pgq.Job) -> str:
    """Succeed in the third attempt."""
    if job.attempt < 3:
        raise ConnectionError(f"attempt {job.attempt}: connection refused")
    return "connected"


@pgq.handler("hopeless")
def hopeless(job: pgq.Job) -> None:
    """Fail in every attempt."""
    raise ValueError("this job cannot succeed")


@pgq.handler("poison")
def poison(job: pgq.Job) -> None:
    """Kill the worker process with a signal that it cannot handle."""
    os.kill(os.getpid(), signal.SIGKILL)
