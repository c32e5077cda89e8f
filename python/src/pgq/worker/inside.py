"""The session of transactional handlers: what is sent between two of them goes to the server in one message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NoReturn

import psycopg
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus, TransactionStatus

from pgq.errors import translated
from pgq.job import Job
from pgq.worker.calls import WorkerQueue
from pgq.worker.session import Session


class LentConnection(psycopg.Connection[Any]):
    """
    A connection for transactional handlers, in a transaction that their worker begins and commits.

    It refuses ``commit`` and ``rollback``, as psycopg does within a ``transaction()`` block, and counts the blocks that
    are open, because a handler must leave none.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.open_blocks = 0

    def commit(self) -> NoReturn:
        """Raise ProgrammingError."""
        raise psycopg.ProgrammingError("a handler with transaction=True leaves it to the worker to commit")

    def rollback(self) -> NoReturn:
        """Raise ProgrammingError."""
        raise psycopg.ProgrammingError("a handler with transaction=True raises an exception to roll back")

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """Return a block with a savepoint."""
        self.open_blocks += 1
        try:
            with super().transaction(savepoint_name, force_rollback) as block:
                yield block
        finally:
            self.open_blocks -= 1


class Inside(Session):
    """The session of a loop's transactional handlers. Only the loop uses it, and lends its connection to them."""

    connection_class: ClassVar[type[psycopg.Connection[Any]] | None] = LentConnection
    # Of the connection that is open.
    _attributes: frozenset[str] = frozenset()

    @property
    def status(self) -> int:
        """The status of the transaction, as far as libpq knows without asking the server."""
        return TransactionStatus.UNKNOWN if self._queue is None else self._queue.conn.pgconn.transaction_status

    @property
    def is_in_transaction(self) -> bool:
        """Whether there is an open transaction, in which no statement has failed."""
        return self.status == TransactionStatus.INTRANS

    @property
    def has_blocks(self) -> bool:
        """Whether a handler is in a block of ``conn.transaction()``."""
        return self.open_blocks > 0

    @property
    def open_blocks(self) -> int:
        """How many blocks of ``conn.transaction()`` a handler is in."""
        return 0 if self._queue is None else getattr(self._queue.conn, "open_blocks", 0)

    @property
    def begin(self) -> str:
        """The statement that begins a transaction. Behind a pooler no session has a default of the worker."""
        return "BEGIN ISOLATION LEVEL READ COMMITTED" if self.transaction_pooler else "BEGIN"

    @property
    def cleaning(self) -> tuple[str, ...]:
        """
        The statements that reset the session, in a transaction of their own.

        RESET and UNLISTEN are undone with the transaction that they are in, so that must not be the next job's.
        """
        return () if self.transaction_pooler else ("BEGIN", self.reset_statements, "COMMIT")

    def queue(self) -> WorkerQueue:
        """Return the queue through this connection; connect if it is closed."""
        before = self._queue
        queue = super().queue()
        if queue is not before:
            self._attributes = frozenset(vars(queue.conn))
        return queue

    def send(self, *statements: str) -> tuple[str, ...]:
        """
        Execute statements that are sent in one message; return the first row, as text, of the last that returns any.

        No statement runs after one that fails. Raises OperationalError if there is no connection. A cursor would take
        longer to look at twenty results than the server takes to run their statements.
        """
        if self._queue is None:
            raise psycopg.OperationalError("the connection is closed")
        conn = self._queue.conn
        try:
            with conn.lock:
                conn.pgconn.send_query("; ".join(statements).encode())
                results = psycopg.Connection.wait(conn, execute(conn.pgconn))
            if results[-1].status == ExecStatus.FATAL_ERROR:
                raise error_from_result(results[-1], conn.info.encoding)
        except psycopg.Error:
            with translated(conn, statements[0]):
                raise
        for result in reversed(results):
            if result.status == ExecStatus.TUPLES_OK:
                return tuple((result.get_value(0, column) or b"").decode() for column in range(result.nfields))
        return ()

    def undo(self, statement: str) -> None:
        """Execute a kind of ROLLBACK; psycopg then prepares its statements anew."""
        if self._queue is None:
            raise psycopg.OperationalError("the connection is closed")
        psycopg.Cursor(self._queue.conn).execute(statement.encode(), prepare=False)

    def has_committed(self, transaction: str, job: Job) -> bool:
        """Return whether the transaction with this id has committed, which completes the job."""
        if self._queue is None:
            return False
        return self.send(self._queue.committed(transaction, job)) == ("t",)

    def set_defaults(self) -> None:
        """Set the attributes of the connection object; some can have changed outside a transaction only."""
        if self._queue is not None:
            if self.status == TransactionStatus.IDLE:
                self._set_defaults(self._queue.conn)
            else:
                self._set_defaults_in_transaction(self._queue.conn)

    def roll_back(self) -> None:
        """Roll back what is open; close a connection through which that is not possible."""
        if self.status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
            try:
                self.undo("ROLLBACK")
            except psycopg.Error:
                self.close()

    def close_if_busy(self) -> bool:
        """
        Close a connection that is in the middle of something, such as a COPY, a stream, a pipeline or a block, because
        its next user would wait for that; return whether it was.
        """
        if super().close_if_busy():
            return True
        if not self.has_blocks:
            return False
        self.abandon()
        return True

    @property
    def is_spoiled(self) -> bool:
        """Whether a handler has set an attribute of the connection that hides one of its methods."""
        if self._queue is None or (now := vars(self._queue.conn).keys()) <= self._attributes:
            return False
        if any(hasattr(LentConnection, name) for name in now - self._attributes):
            return True
        self._attributes = self._attributes.union(now)
        return False
