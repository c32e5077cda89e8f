"""pgqueuer, with asyncpg, uvloop and the autovacuum settings that it recommends: its fastest setup."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import asyncpg  # type: ignore[import-untyped, unused-ignore]
import uvloop
from child import Child
from contender import Contender
from job import KIND, args
from pgqueuer.core.qm import QueueManager
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

BATCH = 100


def payload(n: int, pad: str = "") -> bytes:
    return json.dumps(args(n, pad)).encode()


class Producer:
    """Its enqueue, in an event loop of its own."""

    def __init__(self, database: str) -> None:
        self.loop = uvloop.new_event_loop()
        self.conn = self.loop.run_until_complete(asyncpg.connect(database=database))
        self.queries = Queries(AsyncpgDriver(self.conn))

    def one(self, n: int) -> None:
        self.loop.run_until_complete(self.queries.enqueue(KIND, payload(n)))

    def many(self, first: int, count: int, pad: str = "") -> None:
        payloads: list[bytes | None] = [payload(n, pad) for n in range(first, first + count)]
        self.loop.run_until_complete(self.queries.enqueue([KIND] * count, payloads, [0] * count))

    def close(self) -> None:
        self.loop.run_until_complete(self.conn.close())
        self.loop.close()


def install(database: str) -> None:
    async def run() -> None:
        conn = await asyncpg.connect(database=database)
        queries = Queries(AsyncpgDriver(conn))
        await queries.install()
        await queries.optimize_autovacuum()
        await conn.close()

    uvloop.run(run())


def work(child: Child, limit: int = 0) -> None:
    """Run a worker; of the jobs of all workers, ``limit`` may run at a time, or any number if it is 0."""

    async def run() -> None:
        conn = await asyncpg.connect(database=child.task.database)
        manager = QueueManager(Queries(AsyncpgDriver(conn)))

        async def count(job: Any) -> None:
            child.handle(json.loads(job.payload))

        manager.entrypoint(KIND, concurrency_limit=limit)(count)
        loop = asyncio.get_running_loop()
        child.ready(lambda: loop.call_soon_threadsafe(manager.shutdown.set))
        await manager.run(batch_size=child.task.batch or BATCH)
        await conn.close()

    uvloop.run(run())


LEFT = "SELECT count(*) FROM pgqueuer"
CONTENDER = Contender("pgqueuer", LEFT, install, Producer, work)


def variant(limit: str) -> Contender:
    """Return pgqueuer with a limit of running jobs."""
    return Contender(f"pgqueuer:{limit}", LEFT, install, Producer, partial(work, limit=int(limit)))
