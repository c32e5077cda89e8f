"""Time travel for tests: move freezegun's clock and the database's together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Final

import psycopg
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory

from pgq.connection import rows_of

# The key of the lock by which the test kit knows the session that keeps the time of a database.
CLOCK: Final = int.from_bytes(b"pgqclock", "big")
FIRST_YEAR: Final = datetime(1, 1, 1)
# Modules that go on in real time: a handler has its timeout however long the clock stands.
REAL: Final = ["psycopg", "threading", "_pytest", "pgq.worker.timeout"]


class DatabaseClock:
    """
    The time of a database, kept by a session of its own.

    The time is the key of an advisory lock, which no rollback in another session undoes.
    """

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self._key: int | None = None

    @classmethod
    @contextmanager
    def like(cls, conn: psycopg.Connection[Any]) -> Iterator[DatabaseClock]:
        """Open the session, in the database of a connection; at the end the database returns to real time."""
        with psycopg.connect(
            conn.info.dsn, password=conn.info.password or None, autocommit=True, application_name="pgq.testing"
        ) as own:
            own.execute("SELECT set_config('lock_timeout', '2s', false)")
            if own.info.server_version >= 140000:
                own.execute("SELECT set_config('idle_session_timeout', '0', false)")
            try:
                own.execute("SELECT pg_advisory_lock(%s::bigint)", [CLOCK])
            except psycopg.errors.LockNotAvailable as error:
                raise RuntimeError(
                    f'the database "{conn.info.dbname}" travels in time already: give each test a database of its own'
                ) from error
            try:
                yield cls(own)
            finally:
                # The end of a session releases its locks a little later, when the next test may have begun.
                with suppress(psycopg.OperationalError):
                    own.execute("SELECT pg_advisory_unlock_all()")

    def set(self, now: datetime) -> None:
        """Set the time, a UTC datetime without zone. Raises RuntimeError when the session has been ended."""
        key = (now - FIRST_YEAR) // timedelta(microseconds=1)
        before, self._key = self._key, key
        if key == before:
            self.check()
            return
        try:
            # In this order: between the two, the later of both times is that of the database.
            self.conn.execute("SELECT pg_advisory_lock_shared(%s::bigint)", [key])
            if before is not None:
                self.conn.execute("SELECT pg_advisory_unlock_shared(%s::bigint)", [before])
        except psycopg.OperationalError as error:
            raise self._lost() from error

    def check(self) -> None:
        """Raise RuntimeError when the session has been ended, and the database is back in real time."""
        try:
            self.conn.execute("SELECT 1")
        except psycopg.OperationalError as error:
            raise self._lost() from error

    def _lost(self) -> RuntimeError:
        return RuntimeError(f'the database "{self.conn.info.dbname}" is back in real time: its clock lost its session')


class Clock:
    """The clock of this process and of some databases."""

    def __init__(self, frozen: FrozenDateTimeFactory, databases: list[DatabaseClock]) -> None:
        self._frozen = frozen
        self._databases = databases
        self._set_database_clocks()

    def move_to(self, to: datetime | str) -> None:
        """Set the clock; a time without a zone is UTC."""
        self._frozen.move_to(to)
        self._set_database_clocks()

    def tick(self, by: timedelta) -> None:
        """Advance the clock."""
        self._frozen.tick(by)
        self._set_database_clocks()

    def _set_database_clocks(self) -> None:
        for database in self._databases:
            database.set(self._frozen())


@contextmanager
def time_travel(*connections: psycopg.Connection[Any], to: datetime | str) -> Iterator[Clock]:
    """
    Stop the clock of this process and of the databases of these connections; only the Clock moves it.

    All sessions of these databases travel, whatever transaction they are in, and no rollback brings them back. Each
    database gets one more session, which keeps its time. Raises RuntimeError for a database without the test kit, for
    one that travels already, and when the session that keeps the time is ended by others.
    """
    with ExitStack() as stack:
        databases: dict[tuple[str, int, str], DatabaseClock] = {}
        for conn in connections:
            where = (conn.info.host, conn.info.port, conn.info.dbname)
            if where not in databases:
                databases[where] = stack.enter_context(DatabaseClock.like(conn))
        # Waits end in real time, also those of an event loop.
        frozen = stack.enter_context(freeze_time(to, ignore=REAL, real_asyncio=True))
        # Without tick and auto_tick_seconds freeze_time returns no other class.
        assert isinstance(frozen, FrozenDateTimeFactory)
        clock = Clock(frozen, list(databases.values()))
        for conn in connections:
            query = "SELECT pgq_now() = %s::timestamptz"
            if rows_of(conn, query, [f"{frozen().isoformat()}Z"]) != [(True,)]:
                raise RuntimeError("the database does not follow: load pgq.testing.testkit() after pgq's SQL")
        yield clock
        for database in databases.values():
            database.check()
