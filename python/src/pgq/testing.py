"""
Time travel for tests: freezegun's clock and the database's move together.

Needs the extra ``pgq-jobs[testing]``, and a database that holds no real jobs.
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
    """The SQL that makes pgq_now(), in the first schema of the search path, read the setting pgq.now."""
    return files("pgq").joinpath("testkit.sql").read_text(encoding="utf-8")


class Clock:
    """The time of this process and of some database sessions."""

    def __init__(self, frozen: FrozenDateTimeFactory, connections: tuple[psycopg.Connection[Any], ...]) -> None:
        self._frozen = frozen
        self._connections = connections
        self._tell()

    def move_to(self, to: datetime | str) -> None:
        """Jump to a time; one without a zone is UTC."""
        self._frozen.move_to(to)
        self._tell()

    def tick(self, by: timedelta) -> None:
        """Let some time pass."""
        self._frozen.tick(by)
        self._tell()

    def _tell(self) -> None:
        now = f"{self._frozen().isoformat()}Z"
        for conn in self._connections:
            row = conn.execute("SELECT set_config('pgq.now', %s, false)::timestamptz = pgq_now()", [now]).fetchone()
            if row != (True,):
                raise RuntimeError("the database does not follow: load pgq.testing.testkit() after pgq's SQL")


@contextmanager
def time_travel(*connections: psycopg.Connection[Any], to: datetime | str) -> Iterator[Clock]:
    """
    Stop the clock at a time, for this process and the sessions of these connections; the rest is up to the Clock.

    Raises RuntimeError for a database without the test kit.
    """
    with freeze_time(to, ignore=["psycopg", "threading", "_pytest"]) as frozen:
        assert isinstance(frozen, FrozenDateTimeFactory)  # without tick and auto_tick_seconds it is
        try:
            yield Clock(frozen, connections)
        finally:
            for conn in connections:
                if not conn.closed:
                    conn.execute("SELECT set_config('pgq.now', '', false)")
