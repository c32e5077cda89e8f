"""How far a command has got that takes long, on standard error."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import Final

import click

# Seconds between two lines, where there is no bar.
PROGRESS_EVERY: Final = 2.0


def is_terminal() -> bool:
    """Return whether standard error is a terminal, so that there is a bar if the total is known."""
    return sys.stderr.isatty()


class Progress:
    """
    A bar on a terminal, if ``total`` is known; elsewhere a line now and then, of how many are ``done`` so far.

    Without ``lines`` there is nothing where there is no bar. Leave it as a context before the next text is printed.
    """

    def __init__(self, done: str, total: int | None = None, *, lines: bool = True) -> None:
        self._done = done
        self._lines = lines
        self._count = 0
        self._told_at = monotonic()
        self._bar = click.progressbar(length=total, label=done, file=sys.stderr) if total and is_terminal() else None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)

    def add(self, count: int, part: int | None = None) -> None:
        """Count what is done; ``part`` is how much of the total that is, if it is counted in another unit."""
        self._count += count
        if self._bar is not None:
            self._bar.update(count if part is None else part)
        elif self._lines and monotonic() - self._told_at > PROGRESS_EVERY:
            self._told_at = monotonic()
            click.echo(f"{self._count} {self._done} so far", err=True)

    def leave_line(self) -> None:
        """Let what is printed next stand below the bar, which goes on below that."""
        if self._bar is not None:
            click.echo(err=True)
