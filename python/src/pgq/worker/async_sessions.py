"""The sessions of async handlers: each has an AsyncConnection while it runs, and is used by the worker in between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, Final, NoReturn

import psycopg
from psycopg import pq

from pgq.worker.event_loop import EventLoop
from pgq.worker.inside import Inside
from pgq.worker.session import SHUTDOWN_NOTICED_WITHIN
from pgq.worker.settings import Settings
from pgq.worker.transactions import Transaction


def _dead() -> pq.abc.PGconn:
    """Return a connection that is closed: libpq refuses the port."""
    pgconn = pq.PGconn.connect_start(b"port=0")
    pgconn.finish()
    return pgconn


DEAD: Final = _dead()
# Seconds from a connection that the server has refused until another one is tried, while others are open.
REFUSED_FOR: Final = 1.0


class LentAsyncConnection(psycopg.AsyncConnection[Any]):
    """
    A connection for one call of an async transactional handler, in a transaction that its worker begins and commits.

    It refuses ``commit`` and ``rollback``, and counts the blocks that are open, as LentConnection does. Once the
    handler has ended, it is closed for the tasks that the handler has left behind.
    """

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        super().__init__(conn.pgconn)
        self.open_blocks = 0
        self._autocommit = True
        # The names of the statements that are prepared in the session.
        self._prepared = conn._prepared

    async def commit(self) -> NoReturn:
        """Raise ProgrammingError."""
        raise psycopg.ProgrammingError("a handler with transaction=True leaves it to the worker to commit")

    async def rollback(self) -> NoReturn:
        """Raise ProgrammingError."""
        raise psycopg.ProgrammingError("a handler with transaction=True raises an exception to roll back")

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """Return a block with a savepoint."""
        self.open_blocks += 1
        try:
            async with super().transaction(savepoint_name, force_rollback) as block:
                yield block
        finally:
            self.open_blocks -= 1


class AsyncInside(Inside):
    """
    A session for the handler of one job at a time.

    The event loop uses it while the handler runs, through the connection that is lent; before and after, one of the
    threads of the event loop does, as a loop uses its session.
    """

    connection_class = None
    lent: LentAsyncConnection | None = None

    @property
    def open_blocks(self) -> int:
        """How many blocks of ``conn.transaction()`` the handler is in."""
        return 0 if self.lent is None else self.lent.open_blocks

    def lend(self) -> LentAsyncConnection:
        """Return a connection for the handler."""
        self.lent = LentAsyncConnection(self.queue().conn)
        return self.lent

    async def take_back(self, event_loop: EventLoop) -> bool:
        """
        Take the connection away from the handler and the tasks that it has left behind; return whether one of these
        was using it. Then the session is shut down.
        """
        lent = self.lent
        assert lent is not None
        is_used = lent.lock.locked()
        try:
            if is_used:
                await event_loop.in_thread(self.shut_down)
                until = monotonic() + SHUTDOWN_NOTICED_WITHIN
                while lent.lock.locked() and monotonic() < until:
                    await asyncio.sleep(0.01)
        finally:
            lent.pgconn = DEAD
        return is_used


class AsyncTransaction(Transaction):
    """The transaction of an async handler. What is left of a handler cannot use the connection: it was taken away."""

    def _has_left_threads(self) -> bool:
        return False


class AsyncSessions:
    """
    The sessions of a worker's async handlers: as many as are used at a time, which stay open.

    While the server accepts no further one, a transaction waits for one of the others.
    """

    def __init__(self, settings: Settings, event_loop: EventLoop) -> None:
        self._settings = settings
        self._event_loop = event_loop
        self._free: list[AsyncInside] = []
        self._used: set[AsyncInside] = set()
        # What waits for a session, in the order in which it began to.
        self._waiting: deque[asyncio.Future[None]] = deque()
        # Until then no further session is tried.
        self._refused_until = 0.0

    def take(self) -> AsyncInside:
        """Return a session, which connects when it is used. Safe in any thread."""
        try:
            session = self._free.pop()
        except IndexError:
            settings = self._settings
            session = AsyncInside(
                settings.server, settings.name, settings.schema, transaction_pooler=settings.transaction_pooler
            )
        self._used.add(session)
        return session

    async def open(self) -> AsyncInside:
        """
        Return a session that is connected. Raises the error of the connection, where no other session is used either.
        """
        while True:
            if not self._free and self._used and monotonic() < self._refused_until:
                await self._wait()
                continue
            session = self.take()
            try:
                await self._event_loop.in_thread(session.queue)
            except BaseException as error:
                self._used.discard(session)
                if isinstance(error, psycopg.OperationalError) and self._used:
                    self._refused_until = monotonic() + REFUSED_FOR
                    continue
                self._wake()
                raise
            return session

    def give_back(self, session: AsyncInside) -> None:
        """Keep a session for the next job. Safe in any thread."""
        session.lent = None
        self._free.append(session)
        self._used.discard(session)
        if self._waiting:
            self._event_loop.call(self._wake)

    def shut_down(self) -> None:
        """Shut down the sessions that are used, so that the server ends their transactions."""
        for session in self._used.copy():
            session.shut_down()

    def close(self) -> None:
        """Close the sessions that are not used; the end of the process closes the others."""
        while self._free:
            self._free.pop().close()

    async def _wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await asyncio.wait([future], timeout=REFUSED_FOR)
        if future in self._waiting:
            self._waiting.remove(future)

    def _wake(self) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return
