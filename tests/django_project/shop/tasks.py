"""Tasks of each sort."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
from django.db import connection
from django.db.transaction import atomic

import pgq
from shop.framework import TaskContext, task
from shop.models import Note


@task
def add(a: float, b: float = 1) -> float:
    """Return a sum."""
    return a + b


@task
def write(text: str) -> None:
    """Write a note."""
    Note.objects.create(text=text)


@task
def write_and_fail(text: str) -> None:
    """Write a note, and fail."""
    Note.objects.create(text=text)
    raise LookupError(f"no {text}")


@task
def write_and_break(text: str) -> None:
    """Write a note, and let a statement fail."""
    Note.objects.create(text=text)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 / 0")


@task
def write_and_break_django(text: str) -> None:
    """Write a note, and let Django mark the transaction, in which nothing has failed for PostgreSQL."""
    Note.objects.create(text=text)
    with atomic(savepoint=False):
        raise LookupError(text)


@task(transaction=True)
def write_once(text: str, fail: bool = False) -> str:
    """Write a note in the transaction that ends the job."""
    Note.objects.create(text=text)
    if fail:
        raise LookupError(text)
    return text


@task(takes_context=True, max_retries=2, backoff="0 seconds")
def third_time(context: TaskContext) -> list[Any]:
    """Fail twice, and return what the third attempt knows of the first two."""
    result = context.task_result
    if context.attempt < 3:
        raise ValueError(f"attempt {context.attempt}")
    return [context.attempt, len(result.worker_ids), [error.traceback.splitlines()[-1] for error in result.errors]]


@task(takes_context=True)
async def wait(context: TaskContext, value: Any) -> Any:
    """Return a value, from a coroutine."""
    return [context.attempt, value]


@task(cancel_on=KeyError, max_retries=5)
def give_up() -> None:
    """Raise what makes another attempt useless."""
    raise KeyError("gone")


@task
def complex_value() -> object:
    """Return what is not in JSON."""
    return object()


@task
def snooze() -> None:
    """Put the job off."""
    raise pgq.Snooze(delay=timedelta(hours=1))


@task
def backend_pid() -> int:
    """Return the process of the server behind Django's connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        pid: int = cursor.fetchone()[0]
    return pid


@task(group_key="g", dedup_key="k", on_duplicate="error", backend="other", queue_name="mail")
def once(n: int) -> int:
    """Return a number; one job waits at a time."""
    return n


@pgq.handler("plain")
def plain(job: pgq.Job) -> Any:
    """A handler that is no task."""
    return job.args


@pgq.handler("with a connection", transaction=True)
def with_connection(job: pgq.Job, conn: psycopg.Connection[Any]) -> Any:
    """A handler with a transaction."""
    return conn.execute("SELECT %s::integer", [job.args]).fetchone()


@pgq.handler("list", batch=10, max_retries=0)
def several(jobs: list[pgq.Job]) -> Any:
    """A handler of batches, which fails those without arguments."""
    return {job.id: job.args or LookupError("none") for job in jobs}


@pgq.handler("async")
async def async_handler(job: pgq.AsyncJob) -> Any:
    """An async handler, which is no task."""
    return job.args
