"""procrastinate: asynchronous tasks, many at a time; finished jobs are deleted."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import procrastinate
from child import Child
from contender import Contender
from job import KIND, args

CONCURRENCY = 10


def conninfo(database: str) -> str:
    return f"dbname={database}"


class Producer:
    """Its defer and batch_defer."""

    def __init__(self, database: str) -> None:
        self.app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=conninfo(database)))
        self.app.open()
        self.task = self.app.configure_task(KIND)

    def one(self, n: int) -> None:
        self.task.defer(**args(n))

    def many(self, first: int, count: int, pad: str = "") -> None:
        self.task.batch_defer(*[args(n, pad) for n in range(first, first + count)])

    def close(self) -> None:
        self.app.close()


def install(database: str) -> None:
    connector = procrastinate.SyncPsycopgConnector(conninfo=conninfo(database))
    with procrastinate.App(connector=connector).open() as app:
        app.schema_manager.apply_schema()


def work(child: Child) -> None:
    concurrency = child.task.batch or CONCURRENCY

    async def run() -> None:
        connector = procrastinate.PsycopgConnector(
            conninfo=conninfo(child.task.database), min_size=concurrency, max_size=concurrency + 5
        )
        app = procrastinate.App(connector=connector)

        async def count(**given: Any) -> None:
            child.handle(given)

        app.task(name=KIND)(count)
        async with app.open_async():
            stopped = asyncio.Event()
            loop = asyncio.get_running_loop()
            child.ready(lambda: loop.call_soon_threadsafe(stopped.set))
            worker = asyncio.create_task(
                app.run_worker_async(concurrency=concurrency, delete_jobs="always", install_signal_handlers=False)
            )
            await asyncio.wait([worker, asyncio.create_task(stopped.wait())], return_when=asyncio.FIRST_COMPLETED)
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker

    asyncio.run(run())


LEFT = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
CONTENDER = Contender("procrastinate", LEFT, install, Producer, work)
