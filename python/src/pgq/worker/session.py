"""A connection of a worker's: one that is open, and clean."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from pgq.queue import Queue
from pgq.version import check_version

# How soon this side notices that the other one is unreachable, unless the DSN says otherwise.
REACHABLE: Final = {
    "connect_timeout": "10",
    "keepalives_idle": "3",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "9000",
}
# The same for the server, whose own defaults are in hours: until then it would keep what the worker had locked. And
# READ COMMITTED whatever its default is: SKIP LOCKED and SERIALIZABLE do not mix.
SETTINGS: Final = (
    "SET default_transaction_isolation = 'read committed'; SET tcp_keepalives_idle = 3; "
    "SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 9000"
)
# Not to be had where the server's platform cannot watch a socket while it computes.
WATCH: Final = "SET client_connection_check_interval = '2s'"
# What a handler may have left behind, beyond what ends with its transaction. Prepared statements stay: to prepare those
# of pgq again for each job would cost as much as all of this.
CLEAN: Final = (
    "RESET SESSION AUTHORIZATION; RESET ALL; CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES; "
    f"SELECT pg_catalog.pg_advisory_unlock_all(); {SETTINGS}"
)
# How long another thread may take to notice that its connection is shut, in seconds.
LET_GO_WITHIN: Final = 0.5
# psycopg's own.
PREPARE_THRESHOLD: Final = 5
PREPARED_MAX: Final = 100
HERE: Final = (
    "SELECT n.nspname FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace "
    "WHERE p.oid = pg_catalog.to_regproc('pgq_claim')"
)


def connect(conninfo: str, name: str) -> psycopg.Connection[Any]:
    """A connection in autocommit mode that notices within some ten seconds that its server is unreachable."""
    unsaid = {key: value for key, value in REACHABLE.items() if key not in conninfo_to_dict(conninfo)}
    return psycopg.connect(
        make_conninfo(conninfo, **unsaid),
        autocommit=True,
        application_name=f"pgq {name}"[:63],
        client_encoding="utf8",
    )


class Session:
    """
    A connection that is replaced when it is lost. Whoever uses it holds ``lock``, for as long as nobody else may.

    ``ring`` is called when a notification of a ripe job has arrived. Behind a pooler in transaction mode (``pooled``)
    nothing is set or kept in the session.
    """

    def __init__(
        self,
        conninfo: str,
        name: str,
        schema: str | None,
        *,
        pooled: bool = False,
        ring: Callable[[], None] | None = None,
    ) -> None:
        self.conninfo = conninfo
        self.name = name
        self.schema = schema
        self.pooled = pooled
        self.ring = ring
        self.lock = threading.RLock()
        self.asleep = False
        self._queue: Queue | None = None
        self._watched = True

    @property
    def closed(self) -> bool:
        """Whether there is no open connection, as far as one can tell without asking the server."""
        return self._queue is None or self._queue.conn.closed

    def queue(self) -> Queue:
        """The queue, through the connection; connects if it is closed."""
        if self._queue is None or self._queue.conn.closed:
            conn = connect(self.conninfo, self.name)
            try:
                self._prepare(conn)
                queue = Queue(conn, schema=self.schema or self._find_schema(conn))
                check_version(queue)
            except BaseException:
                conn.close()
                raise
            self._queue = queue
            self.asleep = False
        return self._queue

    def close_if_busy(self) -> bool:
        """
        Close a connection that is in the middle of something, such as a COPY, a stream or a pipeline: whoever used it
        next would wait for that. The answer is whether it was.
        """
        if self._queue is None:
            return False
        pgconn = self._queue.conn.pgconn
        if pgconn.transaction_status != TransactionStatus.ACTIVE and pgconn.pipeline_status == PipelineStatus.OFF:
            return False
        self.abandon()
        return True

    def abandon(self) -> None:
        """Close a connection that another thread may be using: libpq frees what that one is in the middle of."""
        if self._queue is None:
            return
        self.shut()
        # A thread that waits for the server holds the lock, and notices; a stream that nobody reads keeps it.
        lock = self._queue.conn.lock
        locked = lock.acquire(timeout=LET_GO_WITHIN)
        try:
            self.close()
        finally:
            if locked:
                lock.release()

    def clean(self) -> None:
        """
        Leave nothing of a handler's in the session, statements that it has prepared by PREPARE aside, nor in the
        connection object, adapters and callbacks aside. A session that cannot be cleaned is closed.
        """
        if self._queue is None or self._queue.conn.closed:
            return
        conn = self._queue.conn
        if conn.info.transaction_status != TransactionStatus.IDLE:
            self.close()
            return
        try:
            self._defaults(conn)
            if not self.pooled:
                conn.execute(f"{CLEAN}; {WATCH}" if self._watched else CLEAN)
        except Exception:
            # The handler may have done anything to the object, too.
            self.close()

    def fall_asleep(self, queues: Sequence[str]) -> None:
        """Count as sleeping, and listen for notifications. Jobs that came just before are found by one more claim."""
        queue = self.queue()
        for channel in queue.idle(queues):
            queue.conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        self.asleep = True

    def stay_awake(self, queues: Sequence[str]) -> None:
        """Count as sleeping no more, and do not let notifications that nobody waits for pile up on the server."""
        queue = self.queue()
        if self.asleep:
            queue.idle(queues, False)
            self.asleep = False
        queue.conn.pgconn.consume_input()
        while self.heard():
            pass

    def heard(self) -> bool:
        """Whether libpq has read a notification along with an answer, and nobody has looked at it since."""
        return self.queue().conn.pgconn.notifies() is not None

    def shut(self) -> None:
        """Let the server end the session, while another thread may be waiting for an answer."""
        queue = self._queue
        if queue is None or queue.conn.closed:
            return
        try:
            queue.conn.cancel_safe(timeout=1.0)
            # The descriptor is libpq's; a copy of it can be shut down without its noticing before the next read.
            with socket.socket(fileno=os.dup(queue.conn.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)
        except (psycopg.Error, OSError):
            return

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self.lock:
            if self._queue is not None:
                self._queue.conn.close()
                self._queue = None

    def _prepare(self, conn: psycopg.Connection[Any]) -> None:
        """What a new connection needs."""
        self._defaults(conn)
        if not self.pooled:
            conn.execute(SETTINGS)
            self._watch(conn)
        if self.ring is not None:
            ring = self.ring
            conn.add_notify_handler(lambda _: ring())

    def _defaults(self, conn: psycopg.Connection[Any]) -> None:
        """The attributes of the connection object. A pooler hands out another session, so nothing is prepared there."""
        conn.autocommit = True
        conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED if self.pooled else None
        conn.prepare_threshold = None if self.pooled else PREPARE_THRESHOLD
        conn.prepared_max = PREPARED_MAX
        conn.read_only = conn.deferrable = None
        conn.row_factory = tuple_row
        conn.cursor_factory, conn.server_cursor_factory = psycopg.Cursor, psycopg.ServerCursor

    def _watch(self, conn: psycopg.Connection[Any]) -> None:
        if self._watched:
            try:
                conn.execute(WATCH)
            except psycopg.errors.InvalidParameterValue:
                self._watched = False

    def _find_schema(self, conn: psycopg.Connection[Any]) -> str | None:
        """Where the search path leads now: a handler may change that."""
        row = conn.execute(HERE).fetchone()
        return row[0] if row else None
