"""pgqueuer: asyncpg, uvloop and its own recommended autovacuum settings, which are its fastest."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import asyncpg  # type: ignore[import-untyped, unused-ignore]
import uvloop
from pgqueuer.core.qm import QueueManager
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

from queues.payload import KIND, args

if TYPE_CHECKING:
    from duty import Duty

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


class PgQueuer:
    name = "pgqueuer"
    left = "SELECT count(*) FROM pgqueuer"

    def install(self, database: str) -> None:
        async def install() -> None:
            conn = await asyncpg.connect(database=database)
            queries = Queries(AsyncpgDriver(conn))
            await queries.install()
            await queries.optimize_autovacuum()
            await conn.close()

        uvloop.run(install())

    def producer(self, database: str) -> Producer:
        return Producer(database)

    def work(self, duty: Duty) -> None:
        async def work() -> None:
            conn = await asyncpg.connect(database=duty.task.database)
            manager = QueueManager(Queries(AsyncpgDriver(conn)))

            async def count(job: Any) -> None:
                duty.handle(json.loads(job.payload))

            manager.entrypoint(KIND)(count)
            loop = asyncio.get_running_loop()
            duty.ready(lambda: loop.call_soon_threadsafe(manager.shutdown.set))
            await manager.run(batch_size=duty.task.batch or BATCH)
            await conn.close()

        uvloop.run(work())


CONTENDER = PgQueuer()
