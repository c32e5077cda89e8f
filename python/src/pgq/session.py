"""The connection of a worker: one that is open, and whether it counts as asleep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql

from pgq.queue import Queue


class Session:
    """
    A connection that is replaced when it is lost. Whoever uses it holds ``lock``, for as long as nobody else may.

    ``ring`` is called when a notification of a ripe job has arrived.
    """

    def __init__(self, conninfo: str, name: str, schema: str | None, ring: Callable[[], None]) -> None:
        self.conninfo = conninfo
        self.name = name
        self.schema = schema
        self.ring = ring
        self.lock = threading.RLock()
        self.asleep = False
        self._queue: Queue | None = None

    @property
    def closed(self) -> bool:
        """Whether there is no open connection, as far as one can tell without asking the server."""
        return self._queue is None or self._queue.conn.closed

    def queue(self) -> Queue:
        """The queue, through the connection; connects if it is closed."""
        if self._queue is None or self._queue.conn.closed:
            conn = psycopg.connect(
                self.conninfo, autocommit=True, application_name=f"pgq {self.name}"[:63], client_encoding="utf8"
            )
            # Whatever the default of the server is: SKIP LOCKED and SERIALIZABLE do not mix.
            conn.execute("SET default_transaction_isolation = 'read committed'")
            conn.add_notify_handler(lambda _: self.ring())
            self.asleep = False
            self._queue = Queue(conn, schema=self.schema)
        return self._queue

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

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self.lock:
            if self._queue is not None:
                self._queue.conn.close()
                self._queue = None
