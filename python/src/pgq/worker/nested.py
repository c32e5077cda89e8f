"""Sessions within a transaction of the caller's: what a worker begins and commits elsewhere is a savepoint there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from pgq.handlers import Handlers
from pgq.worker.async_sessions import DEAD, AsyncInside, AsyncSessions
from pgq.worker.calls import WorkerQueue
from pgq.worker.event_loop import EventLoop
from pgq.worker.inside import Inside, LentConnection
from pgq.worker.server import Server
from pgq.worker.settings import Settings

BEGIN: Final = "SAVEPOINT pgq_transaction"
COMMIT: Final = "RELEASE pgq_transaction"
ROLLBACK: Final = "ROLLBACK TO pgq_transaction; RELEASE pgq_transaction"
# No session of these connects.
NOWHERE: Final = Server("", {})
# What the worker sets until the end of its transaction.
SETTINGS: Final = ("lock_timeout", "idle_in_transaction_session_timeout")


class Nested(Inside):
    """The session of transactional handlers, on a connection that is in a transaction, and stays in it."""

    def __init__(self, queue: WorkerQueue, settings: Settings) -> None:
        super().__init__(NOWHERE, settings.name, settings.schema)
        self._queue = queue
        self._attributes = frozenset(vars(queue.conn))
        # Whether the savepoint is set that stands for a transaction.
        self._begun = False

    @property
    def status(self) -> int:
        """The status of the handler's transaction."""
        return super().status if self._begun else TransactionStatus.IDLE

    @property
    def begin(self) -> str:
        """The statement that stands for BEGIN."""
        return BEGIN

    @property
    def cleaning(self) -> tuple[str, ...]:
        """Nothing: the settings of the session are the caller's."""
        return ()

    def queue(self) -> WorkerQueue:
        """Return the queue through this connection."""
        assert self._queue is not None
        return self._queue

    def send(self, *statements: str) -> tuple[str, ...]:
        """Do what ``Inside.send`` does, with a savepoint for each transaction."""
        self._begun = self._begun or BEGIN in statements
        row = super().send(*(COMMIT if statement == "COMMIT" else statement for statement in statements))
        if "COMMIT" in statements:
            self._begun = BEGIN in statements[statements.index("COMMIT") :]
        return row

    def undo(self, statement: str) -> None:
        """Do what ``Inside.undo`` does, with the savepoint for the transaction."""
        if statement == "ROLLBACK":
            statement, self._begun = ROLLBACK, False
        super().undo(statement)

    def set_defaults(self) -> None:
        """Set the attributes of the connection object that a handler may have changed."""
        self._set_defaults_in_transaction(self.queue().conn)

    def close_if_busy(self) -> bool:
        """Return whether the connection is in the middle of something; a block of the handler's ends with it."""
        conn = self.queue().conn
        if self.has_blocks and isinstance(conn, LentConnection):
            conn.open_blocks = conn._num_transactions = 0
            return True
        pgconn = conn.pgconn
        return pgconn.transaction_status == TransactionStatus.ACTIVE or pgconn.pipeline_status != PipelineStatus.OFF

    def reset(self) -> None:
        """Set the attributes of the connection object; what the handler has set in the session stays."""
        self.set_defaults()

    def abandon(self) -> None:
        """Keep the connection, which is the caller's."""

    def shut_down(self) -> None:
        """Keep the connection, which is the caller's."""

    def close(self) -> None:
        """Keep the connection, which is the caller's."""


class AsyncNested(Nested, AsyncInside):
    """The session of one async handler."""


class NestedSessions(AsyncSessions):
    """The sessions of async handlers: one at a time is used."""

    def __init__(self, queue: WorkerQueue, settings: Settings, event_loop: EventLoop) -> None:
        super().__init__(settings, event_loop)
        self._queue = queue

    def take(self) -> AsyncInside:
        """Return a session."""
        session = AsyncNested(self._queue, self._settings)
        self._used.add(session)
        return session

    def give_back(self, session: AsyncInside) -> None:
        """Forget a session."""
        self._used.discard(session)


@contextmanager
def lent(conn: psycopg.Connection[Any], handlers: Handlers) -> Iterator[WorkerQueue]:
    """
    Return the queue through another object for a connection, which handlers may get; its own is not used meanwhile.

    At the end what was set for the rest of the transaction is set as before.
    """
    pgconn = conn.pgconn
    callbacks = pgconn.notice_handler, pgconn.notify_handler
    other = LentConnection(pgconn)
    other._autocommit = True
    # The names of the statements that are prepared in the session.
    other._prepared = conn._prepared
    queue = WorkerQueue(other, handlers=handlers)
    names = [f"current_setting('{name}')" for name in SETTINGS]
    before = other.execute(f"SELECT {', '.join(names)}".encode()).fetchone()
    assert before is not None
    try:
        yield queue
    finally:
        if pgconn.transaction_status == TransactionStatus.INTRANS:
            calls = [f"set_config('{name}', %s, true)" for name in SETTINGS]
            other.execute(f"SELECT {', '.join(calls)}".encode(), before)
        # Closed for what handlers have left behind, and open for the caller.
        other.pgconn = DEAD
        pgconn.notice_handler, pgconn.notify_handler = callbacks
