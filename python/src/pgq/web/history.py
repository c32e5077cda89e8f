"""The last hour of each database, in the memory of this process: read by a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Final

import psycopg

from pgq.doctor import Examination, examine
from pgq.errors import Error
from pgq.overview import PARTS, History, Rates, Snapshot, read
from pgq.web.database import Database

# Seconds between two readings while pages are asked for, and otherwise; and from which age on a page reads itself.
EVERY: Final = 5.0
RARELY: Final = 15.0
TOO_OLD: Final = 10.0
# Where a reading takes long, the time between two of them is so many times as long.
SHARE: Final = 20
# What changes the series.
SERIES: Final = ("kinds", "counters", "ids")
# What a chart shows: the shortest of these times that has all that is known, in so many points.
SPANS: Final = (timedelta(minutes=5), timedelta(minutes=15), timedelta(hours=1))
POINTS: Final = (20, 30, 60)
# Seconds between two examinations by the doctor, and for how long after a request it goes on with them.
EXAMINE_EVERY: Final = 30.0
ASKED_WITHIN: Final = 120.0


class Watch:
    """The history of one database, and the thread that adds to it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.begun_at = datetime.now(UTC)
        self._history = History()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._snapshot: Snapshot | None = None
        self._read_at = 0.0
        self._asked_at = 0.0
        # What the doctor has found last; None: nothing yet, or it may not look.
        self.examination: Examination | None = None
        self.examined_at: datetime | None = None

    def asked(self) -> None:
        """Note that a page was asked for. Until then, and when nobody asks any more, the doctor does not look."""
        self._asked_at = monotonic()

    def start(self) -> None:
        """Begin to read, unless it has begun. Called by each request, so that a fork or a mounted app needs no more."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="pgq-web-history", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def snapshot(self) -> Snapshot:
        """Return what was read last, or else read it. Raises pgq.Error and psycopg.Error."""
        with self._lock:
            if self._snapshot is not None and monotonic() < self._read_at + TOO_OLD:
                return self._snapshot
        with self.database.connection() as conn:
            return self._read(conn, PARTS)

    def forget(self) -> None:
        """Let the next page read anew, because an action has changed something."""
        with self._lock:
            self._snapshot = None

    def _read(self, conn: psycopg.Connection[Any], parts: Sequence[str]) -> Snapshot:
        snapshot = read(conn, schema=self.database.schema, parts=parts)
        with self._lock:
            self._history.add(snapshot)
            if parts is PARTS:
                self._snapshot, self._read_at = snapshot, monotonic()
        return snapshot

    def span(self, at: datetime) -> timedelta:
        """Return the time that a chart shows."""
        return next((span for span in SPANS if at - self.begun_at <= span), SPANS[-1])

    def series(self, at: datetime, queue: str | None = None) -> list[Rates | None]:
        """Return the rates of that time, of all queues or of one, the oldest first; None where nothing is known."""
        span = self.span(at)
        points = POINTS[SPANS.index(span)]
        with self._lock:
            return self._history.series(points, span / points, queue=queue)

    def rates(self, queue: str | None = None) -> Rates | None:
        """Return the rates of the last minute; None: nothing is known yet."""
        with self._lock:
            return self._history.rates(queue=queue)

    def _run(self) -> None:
        examine_at = 0.0
        while not self._stopped.is_set():
            is_asked = monotonic() < self._asked_at + ASKED_WITHIN
            pause = EVERY if is_asked else RARELY
            # A gap in the series shows that nothing could be read. The pages say why, when they are looked at.
            with suppress(psycopg.Error, Error), self.database.connection() as conn:
                snapshot = self._read(conn, PARTS if is_asked else SERIES)
                pause = max(pause, SHARE * snapshot.seconds)
                if is_asked and monotonic() >= examine_at:
                    self.examination = examine(conn, self.database.schema)
                    self.examined_at = datetime.now(UTC)
                    examine_at = monotonic() + EXAMINE_EVERY
            self._stopped.wait(pause)


class Histories:
    """The watches over all databases."""

    def __init__(self, databases: Sequence[Database]) -> None:
        self._watches = {database.label: Watch(database) for database in databases}

    def of(self, database: Database) -> Watch:
        """Return the watch over a database, which runs."""
        watch = self._watches[database.label]
        watch.start()
        watch.asked()
        return watch

    def start(self) -> None:
        """Begin to watch all databases."""
        for watch in self._watches.values():
            watch.start()

    def stop(self) -> None:
        """End all watches."""
        for watch in self._watches.values():
            watch.stop()
