"""``pgq top`` in a terminal: redrawn in place when something has changed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any

import psycopg
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from pgq.cli.top.actions import reason
from pgq.cli.top.figures import ASCII_BARS, BARS
from pgq.cli.top.frame import Status, frame
from pgq.cli.top.lists import Source
from pgq.cli.top.reader import Doctor, Reader
from pgq.cli.top.terminal import keys, keys_unbuffered
from pgq.cli.top.view import View
from pgq.doctor import Examination
from pgq.overview import History, Snapshot

# Seconds between two looks at keys, the size of the terminal, and what was read.
TURN = 0.1
# Seconds beyond the interval after which the numbers count as old.
PATIENCE = 5.0


class Screen:
    """The terminal, the view, and what the reader has found last."""

    def __init__(self, reader: Reader, database: str, view: View) -> None:
        self._reader = reader
        self._view = view
        self._status = Status(database)
        self._history = History()
        self._examination: Examination | None = None
        self._found_at = monotonic()
        self._console = Console(highlight=False)
        self._bars = BARS if self._console.encoding.startswith("utf") else ASCII_BARS

    def run(self) -> None:
        """Show what is read until the user quits."""
        with (
            _terminated_by_signal(),
            keys_unbuffered(),
            Live(console=self._console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
        ):
            size = None
            while not self._view.quit:
                changed = self._take() or self._is_late()
                for key in self._keys():
                    changed = True
                    self._press(key)
                if changed or size != self._console.size:
                    size = self._console.size
                    live.update(self._drawn(size.width, size.height), refresh=True)

    def _keys(self) -> list[str]:
        """Return the keys that were pressed; a terminal that is gone quits."""
        try:
            return keys(TURN)
        except EOFError:
            return ["q"]

    def _source(self) -> Source | None:
        newest = self._history.newest
        return None if newest is None else Source(newest, self._history, self._examination, self._bars)

    def _drawn(self, width: int, height: int) -> Group:
        """Return the screen for rich."""
        lines = frame(self._view, self._source(), self._status, width, height)
        return Group(*(Text(line, style=style, no_wrap=True, overflow="crop") for line, style in lines))

    def _take(self) -> bool:
        """Take what the reader has found; return whether there was anything."""
        taken = False
        while not self._reader.found.empty():
            taken = True
            match self._reader.found.get():
                case Snapshot() as snapshot:
                    self._found_at = monotonic()
                    self._history.add(snapshot)
                    self._status = Status(self._status.database)
                case Examination() as examination:
                    self._examination = examination
                case str() as message:
                    self._view.message = message
                case error:
                    self._found_at = monotonic()
                    self._status = Status(self._status.database, lost=f"no connection: {reason(error)}")
        return taken

    def _is_late(self) -> bool:
        """Return whether the server has not answered for long, and one second more has passed since that was shown."""
        if self._view.frozen:
            self._found_at = monotonic()
        late = int(monotonic() - self._found_at)
        if late < PATIENCE + self._reader.pause:
            return False
        before = self._status
        self._status = Status(before.database, lost=f"the server has not answered for {late} s")
        return self._status != before

    def _press(self, key: str) -> None:
        """Handle a key."""
        source = self._source()
        rows = [] if source is None else self._view.rows(source)
        places = () if source is None else source.snapshot.places
        action = self._view.press(key, rows, frozenset(place.queue for place in places if place.paused))
        self._reader.interval, self._reader.frozen = self._view.interval, self._view.frozen
        if action is not None:
            self._reader.perform(action)
        elif key in (" ", "+", "-"):
            self._reader.read_now()


@contextmanager
def _terminated_by_signal() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that the terminal is restored."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def show(connect: Callable[[], psycopg.Connection[Any]], schema: str | None, database: str, view: View) -> None:
    """Show the queues of a database until the user quits."""
    reader = Reader(connect, schema, view.interval)
    doctor = Doctor(connect, schema, reader.found)
    reader.start()
    doctor.start()
    try:
        Screen(reader, database, view).run()
    except KeyboardInterrupt:
        pass
    finally:
        reader.stop()
        doctor.stop()
