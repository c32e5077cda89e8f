"""
Time travel for tests: move freezegun's clock and the database's together.

Needs the extra ``pgq-jobs[testing]``, and a database without real jobs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any

import psycopg
from freezegun import freeze_time
from freezegun.api import FrozenDateTimeFactory


def testkit() -> str:
    """Return the SQL that makes pgq_now(), in the first schema of the search path, read the setting pgq.now."""
    return files("pgq").joinpath("testkit.sql").read_text(encoding="utf-8")


class Clock:
    """The clock of this process and of some database sessions."""

    def __init__(self, frozen: FrozenDateTimeFactory, connections: tuple[psycopg.Connection[Any], ...]) -> None:
        self._frozen = frozen
        self._connections = connections
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
        now = f"{self._frozen().isoformat()}Z"
        for conn in self._connections:
            row = conn.execute("SELECT set_config('pgq.now', %s, false)::timestamptz = pgq_now()", [now]).fetchone()
            if row != (True,):
                raise RuntimeError("the database does not follow: load pgq.testing.testkit() after pgq's SQL")


@contextmanager
def time_travel(*connections: psycopg.Connection[Any], to: datetime | str) -> Iterator[Clock]:
    """
    Stop the clock of this process and of the sessions of these connections; only the Clock moves it.

    Raises RuntimeError for a database without the test kit.
    """
    with freeze_time(to, ignore=["psycopg", "threading", "_pytest"]) as frozen:
        # Without tick and auto_tick_seconds freeze_time returns no other class.
        assert isinstance(frozen, FrozenDateTimeFactory)
        try:
            yield Clock(frozen, connections)
        finally:
            for conn in connections:
                if not conn.closed:
                    conn.execute("SELECT set_config('pgq.now', '', false)")
