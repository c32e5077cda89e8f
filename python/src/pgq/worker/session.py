"""A worker's connection: reopened when lost, reset after each handler."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import psycopg
from psycopg import sql
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from pgq.version import check_version
from pgq.worker.calls import WorkerQueue
from pgq.worker.server import Server
from pgq.worker.turn import Turn

# How soon the server notices that the worker is unreachable: its own defaults are in hours, and it would keep what the
# worker has locked. And READ COMMITTED whatever the default is: SKIP LOCKED and SERIALIZABLE do not mix.
SETTINGS: Final = (
    "SET default_transaction_isolation = 'read committed'; SET tcp_keepalives_idle = 3; "
    "SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 9000"
)
# Refused where the server's platform cannot watch a socket during a computation.
CHECK_CONNECTION: Final = "SET client_connection_check_interval = '2s'"
# What a handler may have left behind, beyond what ends with its transaction. Prepared statements stay: preparing those
# of pgq again for each job would cost as much as all of this.
RESET: Final = (
    "RESET SESSION AUTHORIZATION; RESET ALL; CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES; "
    f"SELECT pg_catalog.pg_advisory_unlock_all(); {SETTINGS}"
)
# Seconds that another thread gets to notice that its connection is shut down.
SHUTDOWN_NOTICED_WITHIN: Final = 0.5
# psycopg's own defaults.
PREPARE_THRESHOLD: Final = 5
PREPARED_MAX: Final = 100
FIND_SCHEMA: Final = (
    "SELECT n.nspname FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace "
    "WHERE p.oid = pg_catalog.to_regproc('pgq_claim')"
)


class Interrupted(Exception):
    """The session was told not to wait for the server any longer."""


class Session:
    """
    A connection that is replaced when it is lost. Where threads share it, each holds ``lock`` while it uses it.

    ``notified`` is called with the payload of each notification, in any thread that uses the connection. If
    ``lock_timeout`` is given, a statement waits no longer for a lock. Behind a transaction pooler nothing is set or
    kept in the session.
    """

    # A class of connections, where it is not psycopg's own.
    connection_class: ClassVar[type[psycopg.Connection[Any]] | None] = None

    def __init__(
        self,
        server: Server,
        name: str,
        schema: str | None,
        *,
        transaction_pooler: bool = False,
        notified: Callable[[str], None] | None = None,
        lock_timeout: str | None = None,
    ) -> None:
        self.server = server
        self.name = name
        self.schema = schema
        self.transaction_pooler = transaction_pooler
        self.notified = notified
        self.lock_timeout = lock_timeout
        self.lock = threading.RLock()
        # Whether this session is registered as idle, by pgq_idle.
        self.idle = False
        self._queue: WorkerQueue | None = None
        self._turn: Turn | None = None
        self._can_check = True
        # The next two change under this lock, so that no statement after the interruptible ones is cancelled.
        self._interrupting = threading.Lock()
        self._interruptible = False
        self._interrupted = False

    @property
    def closed(self) -> bool:
        """Whether there is no open connection, as far as libpq knows without asking the server."""
        return self._queue is None or self._queue.conn.closed

    def queue(self) -> WorkerQueue:
        """Return the queue through this connection; connect if it is closed."""
        if self._queue is None or self._queue.conn.closed:
            conn = self.server.connect(self.name, self.connection_class)
            try:
                self._prepare(conn)
                queue = WorkerQueue(conn, schema=self.schema or self._find_schema(conn))
                check_version(queue)
            except BaseException:
                conn.close()
                raise
            self._queue = queue
            self.idle = False
        return self._queue

    def turn(self) -> Turn:
        """Return the call of pgq_claim_batch through this connection; connect if it is closed."""
        queue = self.queue()
        if self._turn is None or self._turn.queue is not queue:
            self._turn = Turn(queue)
        return self._turn

    def close_if_busy(self) -> bool:
        """
        Close a connection that is in the middle of something, such as a COPY, a stream or a pipeline, because its next
        user would wait for that; return whether it was.
        """
        if self._queue is None:
            return False
        pgconn = self._queue.conn.pgconn
        if pgconn.transaction_status != TransactionStatus.ACTIVE and pgconn.pipeline_status == PipelineStatus.OFF:
            return False
        self.abandon()
        return True

    def abandon(self) -> None:
        """
        Close a connection that another thread may be using.

        Let that thread notice first, because closing frees memory that a running call of libpq still reads.
        """
        if self._queue is None:
            return
        self.shut_down()
        # A thread that waits for the server notices, and lets go of the lock; a stream that no thread reads keeps it.
        lock = self._queue.conn.lock
        locked = lock.acquire(timeout=SHUTDOWN_NOTICED_WITHIN)
        try:
            self.close()
        finally:
            if locked:
                lock.release()

    def reset(self) -> None:
        """
        Undo what a handler has changed in the session and in the connection object.

        Statements made by PREPARE, adapters and callbacks stay. A session that cannot be reset is closed.
        """
        if self._queue is None or self._queue.conn.closed:
            return
        conn = self._queue.conn
        if conn.info.transaction_status != TransactionStatus.IDLE:
            self.close()
            return
        try:
            self._set_defaults(conn)
            if not self.transaction_pooler:
                conn.execute(self.reset_statements.encode())
        except Exception:
            # The handler may have changed the object in any way, too.
            self.close()

    @property
    def reset_statements(self) -> str:
        """What undoes the changes of a handler in the session."""
        return f"{RESET}; {CHECK_CONNECTION}" if self._can_check else RESET

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let another thread ``interrupt`` the statements in this context. Raises Interrupted, also when entered."""
        with self._interrupting:
            if self._interrupted:
                raise Interrupted
            self._interruptible = True
        try:
            yield
        except psycopg.errors.QueryCanceled as error:
            if self._interrupted:
                raise Interrupted from error
            raise
        finally:
            with self._interrupting:
                self._interruptible = False

    @contextmanager
    def left_idle(self) -> Iterator[None]:
        """
        Close a connection that an exception in this context leaves in a transaction.

        A handler makes the calls in it, and may be interrupted while the transaction begins. What its worker did in
        that transaction later would never be committed.
        """
        try:
            yield
        except BaseException:
            pgconn = None if self._queue is None else self._queue.conn.pgconn
            if pgconn is not None and pgconn.transaction_status != TransactionStatus.IDLE:
                self.close()
            raise

    def interrupt(self) -> bool:
        """
        Cancel the statement that runs in an interruptible context, and let no further context be entered.

        Return whether a context is still entered. Then call this again, because its next statement may wait, too.
        """
        with self._interrupting:
            self._interrupted = True
            queue = self._queue
            if self._interruptible and queue is not None and not queue.conn.closed:
                with contextlib.suppress(psycopg.Error, OSError):
                    queue.conn.cancel_safe(timeout=1.0)
            return self._interruptible

    def enter_idle(self, queues: Sequence[str]) -> None:
        """Declare this session idle, and listen. One more claim then finds the jobs that came just before."""
        queue = self.queue()
        for channel in queue.idle(queues):
            queue.conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        self.idle = True

    def leave_idle(self, queues: Sequence[str], *, pass_on: bool = False) -> None:
        """
        Declare this session awake, and no longer listen: another one may get its channel.

        ``pass_on`` wakes another session, for a job that this one was notified of and cannot claim.
        """
        queue = self.queue()
        queue.idle(queues, False, pass_on=pass_on)
        queue.conn.execute("UNLISTEN *")
        self.idle = False

    def read_notifications(self) -> None:
        """
        Read what the server has sent; the caller holds ``lock``.

        Raises an error if the connection is lost, also where another thread has noticed that: only its user knows what
        a new one must do first.
        """
        if self._queue is None or self._queue.conn.closed:
            raise psycopg.OperationalError("the connection is closed")
        pgconn = self._queue.conn.pgconn
        pgconn.consume_input()
        while (notification := pgconn.notifies()) is not None:
            if self.notified is not None:
                self.notified(notification.extra.decode())

    def shut_down(self) -> None:
        """Cancel the statement and shut the socket down, while another thread may be waiting for a result."""
        queue = self._queue
        if queue is None or queue.conn.closed:
            return
        try:
            queue.conn.cancel_safe(timeout=1.0)
            # Through a copy of the descriptor, because this socket object closes its own, and the original is libpq's.
            with socket.socket(fileno=os.dup(queue.conn.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)
        except (psycopg.Error, OSError):
            return

    def close(self) -> None:
        """Close the connection, if it is open."""
        with self.lock:
            if self._queue is not None:
                self._queue.conn.close()
                self._queue = None

    def _prepare(self, conn: psycopg.Connection[Any]) -> None:
        """Prepare a new connection for use."""
        self._set_defaults(conn)
        if not self.transaction_pooler:
            limit = "" if self.lock_timeout is None else f"; SET lock_timeout = '{self.lock_timeout}'"
            conn.execute(f"{SETTINGS}{limit}".encode())
            self._check_connection(conn)
        if self.notified is not None:
            notified = self.notified
            conn.add_notify_handler(lambda notification: notified(notification.payload))

    def _set_defaults(self, conn: psycopg.Connection[Any]) -> None:
        """Set the attributes of the connection object, outside a transaction."""
        conn.autocommit = True
        conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED if self.transaction_pooler else None
        conn.read_only = conn.deferrable = None
        self._set_defaults_in_transaction(conn)

    def _set_defaults_in_transaction(self, conn: psycopg.Connection[Any]) -> None:
        """
        Set those attributes of the connection object that can be set at any time.

        A pooler switches server sessions, so nothing is prepared there.
        """
        conn.prepare_threshold = None if self.transaction_pooler else PREPARE_THRESHOLD
        conn.prepared_max = PREPARED_MAX
        conn.row_factory = tuple_row
        conn.cursor_factory, conn.server_cursor_factory = psycopg.Cursor, psycopg.ServerCursor

    def _check_connection(self, conn: psycopg.Connection[Any]) -> None:
        if self._can_check:
            try:
                conn.execute(CHECK_CONNECTION)
            except psycopg.errors.InvalidParameterValue:
                self._can_check = False

    def _find_schema(self, conn: psycopg.Connection[Any]) -> str | None:
        """Return the schema that the search path leads to now; a handler may change the path later."""
        row = conn.execute(FIND_SCHEMA).fetchone()
        return row[0] if row else None
