"""The threads that read snapshots, perform actions and examine, so that keys work while the database does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final

import psycopg

from pgq.cli.top.actions import Action, reason
from pgq.doctor import Examination, examine
from pgq.errors import Error
from pgq.overview import Snapshot, read

# Seconds from one examination by the doctor to the next.
EXAMINE_EVERY: Final = 30.0
# Reading takes at most a tenth of the time, however long one takes.
SHARE: Final = 10


class Reader(threading.Thread):
    """
    Reads a snapshot every so many seconds, on a connection of its own, which it opens again when it is lost.

    Nobody waits for the thread at the end: it may be waiting for a server that does not answer.

    ``found`` gets each snapshot, the reason for which there is none as an exception, and what an action has done.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        schema: str | None,
        interval: float,
    ) -> None:
        super().__init__(name="pgq-top", daemon=True)
        self.interval = interval
        self.frozen = False
        # How long it waits until it reads again.
        self.pause = interval
        self.found: SimpleQueue[Snapshot | Examination | Exception | str] = SimpleQueue()
        self._actions: SimpleQueue[Action] = SimpleQueue()
        self._wake = threading.Event()
        self._stopped = False
        self._connect = connect
        self._conn: psycopg.Connection[Any] | None = None
        self._schema = schema

    def run(self) -> None:
        """Read until ``stop`` is called."""
        while not self._stopped:
            self._wake.clear()
            self.pause = self.interval
            try:
                if self._conn is None:
                    self._conn = self._connect()
                while not self._actions.empty():
                    self._perform(self._conn, self._actions.get())
                if not self.frozen:
                    snapshot = read(self._conn, schema=self._schema)
                    self.pause = max(self.pause, SHARE * snapshot.seconds)
                    self.found.put(snapshot)
            except (psycopg.Error, Error) as error:
                self.found.put(error)
                if self._conn is not None:
                    self._conn.close()
                self._conn = None
            self._wake.wait(self.pause)
        if self._conn is not None:
            self._conn.close()

    def perform(self, action: Action) -> None:
        """Perform an action soon, and read again after it."""
        self._actions.put(action)
        self._wake.set()

    def read_now(self) -> None:
        """Read again at once."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread when it has read what it is reading."""
        self._stopped = True
        self._wake.set()

    def _perform(self, conn: psycopg.Connection[Any], action: Action) -> None:
        """Perform an action. What the database refuses is told; a lost connection is the caller's."""
        try:
            self.found.put(action.perform(conn, self._schema))
        except (psycopg.Error, Error) as error:
            self.found.put(f"not done: {reason(error)}")
            if conn.closed:
                raise


class Doctor(threading.Thread):
    """Examines the database now and then, on a connection of its own; what cannot be examined, ``Reader`` tells."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        schema: str | None,
        found: SimpleQueue[Snapshot | Examination | Exception | str],
    ) -> None:
        super().__init__(name="pgq-doctor", daemon=True)
        self._connect = connect
        self._schema = schema
        self._found = found
        self._stopped = threading.Event()

    def run(self) -> None:
        """Examine until ``stop`` is called."""
        while not self._stopped.is_set():
            with suppress(psycopg.Error, Error), self._connect() as conn:
                self._found.put(examine(conn, self._schema))
            self._stopped.wait(EXAMINE_EVERY)

    def stop(self) -> None:
        """End the thread when it has examined what it is examining."""
        self._stopped.set()
