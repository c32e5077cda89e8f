"""Numbers, rates and lengths of time in few characters, and small charts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

BARS: Final = "▁▂▃▄▅▆▇█"
# For terminals that cannot show the former.
ASCII_BARS: Final = "_.-:=+*#"


def number(value: int | None, *, estimated: bool = False) -> str:
    """Return a number of jobs: all its digits below 100,000, three significant ones above; ~ before an estimate."""
    if value is None:
        return "?"
    sign = "~" if estimated and value else ""
    if value < 100_000:
        return f"{sign}{value}"
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{sign}{value / size:.3g}{unit}" if value < 1000 * size else f"{sign}{value // size}{unit}"
    raise AssertionError


def rate(value: float | None) -> str:
    """Return how often something happens in a second."""
    if value is None:
        return "?"
    if value >= 100_000:
        return number(round(value))
    return "0" if value == 0 else f"{value:.2f}" if value < 0.1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def span(value: timedelta | float | None) -> str:
    """Return a length of time in its two largest units: 850ms, 12.5s, 3m07s, 2h05m, 4d03h."""
    if value is None:
        return "-"
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def sparkline(values: Sequence[float | None], bars: str = BARS) -> str:
    """Return a bar for each value, from none to the greatest of them; a space where it is not known."""
    most = max((value for value in values if value is not None), default=0.0)
    return "".join(
        " " if value is None else bars[0] if value <= 0 else bars[min(len(bars) - 1, int(value / most * len(bars)))]
        for value in values
    )
