"""
The module of a user, for mypy --strict to check; nothing runs it.

A line that ignores an error tests that the error is found: mypy reports a comment that has nothing to ignore.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

import pgq
from pgq.testing import time_travel


@pgq.handler("mail")
def mail(job: pgq.Job) -> None:
    if job.attempt > 3:
        raise pgq.Cancel("no such address")
    if job.waited is not None and job.waited > timedelta(hours=1):
        raise pgq.Snooze(delay=timedelta(minutes=10))
    job.extend(timedelta(minutes=1))


@pgq.handler("split", transaction=True)
def split(job: pgq.Job, conn: psycopg.Connection[Any]) -> list[int]:
    pgq.Queue(conn).add_to_batch(job, [{"kind": "mail", "dely": "1 hour"}])  # type: ignore[typeddict-unknown-key]
    return pgq.Queue(conn).add_to_batch(job, [{"kind": "mail"}])


@pgq.handler(
    "pay",
    transaction=True,
    timeout=20,
    retry_on=OSError,
    cancel_on=(KeyError, ValueError),
)
def pay(amount: int, *, job: pgq.Job, conn: psycopg.Connection[Any]) -> dict[str, int]:
    conn.execute("UPDATE account SET balance = balance - %s", [amount])
    return {"paid": amount}


@pgq.handler(
    "index",
    batch=100,
    lease=timedelta(minutes=5),
    queue="slow",
    max_retries=3,
    backoff=timedelta(seconds=1),
)
def index(jobs: list[pgq.Job]) -> dict[int, Any]:
    return {job.id: pgq.Retry(timedelta(hours=1)) for job in jobs}


@pgq.handler("fetch", timeout=20)
async def fetch(job: pgq.AsyncJob) -> dict[str, int]:
    until: datetime = await job.extend(timedelta(minutes=1))
    page: str = await job.step("page", download, job.args["url"])
    await job.save({"page": page})
    child: pgq.Enqueued = await job.enqueue("mail", {"to": "ann"})
    results: list[pgq.Result] = await job.wait_for([child.id])
    job.extend()  # type: ignore[unused-coroutine]
    return {"length": len(page), "year": until.year, "results": len(results)}


@pgq.handler("transfer", transaction=True)
async def transfer(amount: int, *, job: pgq.AsyncJob, conn: psycopg.AsyncConnection[Any]) -> None:
    async with conn.transaction():
        await conn.execute("UPDATE account SET balance = balance - %s", [amount])


@pgq.handler("pages", batch=10)
async def pages(jobs: list[pgq.AsyncJob]) -> dict[int, Any]:
    async with await psycopg.AsyncConnection.connect() as conn:
        await jobs[0].complete(conn)
    with psycopg.connect() as other:
        await jobs[0].complete(other)  # type: ignore[arg-type]
    return {job.id: None for job in jobs}


async def download(url: str) -> str:
    return url


@pgq.around
async def quietly_async(job: pgq.AsyncJob | list[pgq.AsyncJob], proceed: Callable[[], Awaitable[Any]]) -> Any:
    return await proceed()


@pgq.handler(
    "report",
    schedule="0 7 * * mon-fri",
    timezone="Europe/Berlin",
    catch_up="all",
    jitter=timedelta(minutes=1),
)
def report(job: pgq.Job) -> None:
    pass


@pgq.around
def quietly(job: pgq.Job | list[pgq.Job], proceed: Callable[[], Any]) -> Any:
    return proceed()


@pgq.json_default
def to_json(value: object) -> list[str]:
    return [str(value)]


# The decorator keeps the type of the function.
paid: dict[str, int] = pay(7, job=mail, conn=index)  # type: ignore[arg-type]
mail("not a job")  # type: ignore[arg-type]
pgq.handler(mail)  # type: ignore[arg-type]
pgq.handler("k", retry_on="OSError")  # type: ignore[arg-type]
pgq.Snooze(delay=5)  # type: ignore[arg-type]


def enqueue(conn: psycopg.Connection[Any]) -> int:
    queue = pgq.Queue(conn, schema="jobs")
    queue.enqueue(
        "mail",
        {"to": "ann"},
        delay="10 minutes",
        max_retries=3,
        dedup_key="ann",
        on_duplicate="replace",
    )
    queue.enqueue(
        "mail",
        None,
        ripe_at=datetime.now(UTC),
        priority=0,
        backoff=timedelta(seconds=1),
        dedup=False,
    )
    queue.enqueue("mail", on_duplicate="sometimes")  # type: ignore[arg-type]
    many: list[pgq.Enqueued] = queue.enqueue_many({"kind": "mail", "args": n} for n in range(3))
    queue.enqueue_many([{"kind": "mail", "delay": timedelta(hours=1)}, {"kind": "report", "after": ["#1", many[0].id]}])
    queue.enqueue_many([{"kind": "mail", "dely": "1 hour"}])  # type: ignore[typeddict-unknown-key]
    queue.enqueue_many([{"kind": "mail", "priority": "high"}])  # type: ignore[typeddict-item]
    queue.enqueue_many([{"args": "no kind"}])  # type: ignore[typeddict-item]
    later: list[pgq.NewJob] = [{"kind": "mail"}]
    later += [{"kind": "mail", "args": n, "group_key": "ann"} for n in range(3)]
    queue.enqueue_many(later)
    try:
        queue.cancel(many[0].id)
    except (pgq.JobNotFound, pgq.WrongState) as error:
        print(error, error.hint, error.sqlstate)
    batch: pgq.EnqueuedBatch = queue.enqueue_batch("sum", None, [{"kind": "mail"}])
    queue.enqueue_batch("sum", None, [{"kind": "mail", "dely": "1 hour"}])  # type: ignore[typeddict-unknown-key]
    progress: pgq.BatchProgress = queue.batch_progress(batch.id)
    failed: list[int] = progress.failed_ids
    return sum(one.created for one in many) + len(failed)


async def enqueue_in_async_code(conn: psycopg.AsyncConnection[Any]) -> int:
    queue = pgq.AsyncQueue(conn, schema="jobs")
    first: pgq.Enqueued = await queue.enqueue("mail", {"to": "ann"}, delay=timedelta(minutes=1), on_duplicate="keep")
    await queue.enqueue("mail", on_duplicate="sometimes")  # type: ignore[arg-type]
    many: list[pgq.Enqueued] = await queue.enqueue_many({"kind": "mail", "args": n} for n in range(3))
    await queue.enqueue_many([{"kind": "mail", "dely": "1 hour"}])  # type: ignore[typeddict-unknown-key]
    result: pgq.Result = await queue.wait(first.id, timeout=3)
    pgq.AsyncQueue(psycopg.connect())  # type: ignore[arg-type]
    return len(many) + result.id


def enqueue_through_any_driver(cursor: Any) -> int:
    statement: pgq.Statement = pgq.statement("mail", {"to": "ann"}, after=[1], paramstyle="pyformat")
    pgq.statement("mail", on_duplicate="sometimes")  # type: ignore[arg-type]
    pgq.statement("mail", paramstyle="qmark")  # type: ignore[arg-type]
    cursor.execute(*statement)
    sql, params = pgq.statement_many([{"kind": "mail"}], schema="jobs")
    pgq.statement_many([{"kind": "mail", "dely": "1 hour"}])  # type: ignore[typeddict-unknown-key]
    return len(sql) + len(params)


def operate(conn: psycopg.Connection[Any]) -> list[str]:
    try:
        version: str = pgq.install(conn, schema="jobs")
    except pgq.AlreadyInstalled:
        reached: list[str] = pgq.upgrade(conn, schema="jobs")
        version = reached[-1]
    rows: list[dict[str, Any]] = pgq.Views(conn, schema="jobs").jobs(state="dead", limit=10)
    pgq.Queue(conn, schema="jobs").grant("web", "producer", ["default"])
    try:
        pgq.uninstall(conn, schema="jobs", force=True)
    except (pgq.JobsRemain, pgq.LockTimeout) as error:
        print(error.hint)
    return [version, *(row["kind"] for row in rows)]


def work(dsn: str) -> None:
    handlers = pgq.Handlers()
    handlers.handler("mail")(mail)
    pgq.Worker(dsn, handlers, queue_prefixes=["mail."], queue_order="strict")
    pgq.Worker(dsn, handlers, all_queues=True)
    worker = pgq.Worker(
        dsn,
        handlers,
        queues=["default"],
        concurrency=2,
        drain=pgq.Drain(until_empty=True),
    )
    worker.run()


def travel(conn: psycopg.Connection[Any]) -> None:
    with time_travel(conn, to="2030-01-01") as clock:
        clock.tick(timedelta(hours=1))
