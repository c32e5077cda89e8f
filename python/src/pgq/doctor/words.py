"""Words for people: durations, sizes and lists, and literals that can be copied into SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta


def span(duration: timedelta) -> str:
    """Return a duration in its largest unit, such as ``5 minutes``."""
    seconds = max(duration.total_seconds(), 0.0)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}s"
    return f"{seconds:.0f} second{'' if round(seconds) == 1 else 's'}"


def size(count: int) -> str:
    """Return a number of bytes with a unit, such as ``12 MB``."""
    for unit, length in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if count >= 2 * length:
            return f"{count / length:.0f} {unit}"
    return f"{count} bytes"


def number(count: int, what: str) -> str:
    """Return a number with its noun: ``1 job``, ``2,000 jobs``."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def ripe(jobs: int) -> str:
    """Return how many jobs are ripe: ``1 job is ripe``, ``2 jobs are ripe``."""
    return f"{number(jobs, 'job')} {'is' if jobs == 1 else 'are'} ripe"


def listed(names: Sequence[object], most: int = 5) -> str:
    """Return names with commas; of many only the first ones."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def literal(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
