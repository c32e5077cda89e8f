"""Read databases when they are scraped; one that is down or slow does not keep the others back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from time import monotonic
from typing import Any, Final

import psycopg
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from pgq.metrics.families import PARTS, Series, families
from pgq.overview import Snapshot, read
from pgq.process.logs import logger
from pgq.queue import Queue
from pgq.version import check_version
from pgq.worker.joblog import first_line
from pgq.worker.server import Server

# Seconds for which a reading serves another scrape, too.
FRESH: Final = 1.0


class Source:
    """
    A database. It is read in a thread of its own, on a connection that stays open; never by two threads at a time.

    ``within`` is the time in seconds after which a scrape no longer waits for it.
    """

    def __init__(self, name: str, dsn: str, schema: str | None, most: int, within: float) -> None:
        self.name = name
        self.series = Series(name, most)
        self._server = Server.resolve(dsn)
        self._schema = schema
        # A reading takes little more than this, and a new connection comes first.
        self._read_within = within / 2
        self._lock = threading.Lock()
        self._reading: Future[Snapshot] | None = None
        self._began = 0.0
        self._conn: psycopg.Connection[Any] | None = None
        self._is_up: bool | None = None

    def begin(self) -> Future[Snapshot]:
        """Begin to read, unless that goes on already, or has just ended."""
        with self._lock:
            if self._reading is None or (self._reading.done() and monotonic() > self._began + FRESH):
                self._reading, self._began = Future(), monotonic()
                # A daemon: a server that is frozen must not keep the process from ending.
                threading.Thread(target=self._run, args=(self._reading,), name="pgq-metrics", daemon=True).start()
            return self._reading

    def end(self, reading: Future[Snapshot], seconds: float) -> Snapshot | None:
        """Return what was read; None if the database is down, or does not reply in so many seconds. Log a change."""
        snapshot, why = None, "it does not reply in time"
        try:
            snapshot = reading.result(timeout=max(seconds, 0.0))
        except TimeoutError:
            pass
        except Exception as error:
            why = first_line(error)
        with self._lock:
            is_other, self._is_up = self._is_up is not (snapshot is not None), snapshot is not None
        if is_other and snapshot is None:
            logger.warning("%s is down: %s", self.name, why)
        elif is_other:
            logger.info("%s is up", self.name)
        return snapshot

    def _run(self, reading: Future[Snapshot]) -> None:
        try:
            reading.set_result(self._read())
        except BaseException as error:
            reading.set_exception(error)

    def _read(self) -> Snapshot:
        if self._conn is not None and not self._conn.closed:
            try:
                return self._read_by(self._conn)
            except psycopg.OperationalError:
                # It may have been restarted since the last time.
                self._conn.close()
        self._conn = self._server.connect("metrics")
        # Behind a pooler in transaction mode a statement would be prepared in another session.
        self._conn.prepare_threshold = None
        try:
            check_version(Queue(self._conn, schema=self._schema))
            return self._read_by(self._conn)
        except BaseException:
            self._conn.close()
            raise

    def _read_by(self, conn: psycopg.Connection[Any]) -> Snapshot:
        return read(conn, schema=self._schema, parts=PARTS, timeout=self._read_within)


class Databases(Collector):
    """The metrics of several databases; those that are not read in ``within`` seconds count as down."""

    def __init__(self, sources: list[Source], within: float) -> None:
        self._sources = sources
        self._within = within

    def collect(self) -> Iterator[Metric]:
        """Read all databases at the same time, and yield their metrics."""
        began = monotonic()
        readings = [source.begin() for source in self._sources]
        snapshots = []
        for source, reading in zip(self._sources, readings, strict=True):
            snapshot = source.end(reading, began + self._within - monotonic())
            snapshots.append((source.series, snapshot, monotonic() - began))
        return families(snapshots)
