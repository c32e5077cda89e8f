"""Values as text for people: the filters of the templates."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from markupsafe import Markup

NOTHING: Final = "\N{EN DASH}"
# What a state is shown as, beside its name: the colour is never the only sign.
STATES: Final = ("waiting", "blocked", "running", "done", "dead", "cancelled")
# Stands for a character that cannot be seen, or that would change what is seen beside it.
SIGN: Final = "\N{REPLACEMENT CHARACTER}"
# These join letters, as in Persian, and emoji; Python does not count them as printable.
JOINERS: Final = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def text(value: Any) -> str:
    """Return a name or a line of text: control characters and marks that reorder text become a visible sign."""
    if value is None:
        return NOTHING
    return "".join(character if _is_plain(character) else SIGN for character in str(value))


def block(value: Any) -> str:
    """Return text of several lines in the same way."""
    return "\n".join(
        "".join(character if _is_plain(character) or character == "\t" else SIGN for character in line)
        for line in str(value).splitlines()
    )


def _is_plain(character: str) -> bool:
    return character.isprintable() or character in JOINERS


def number(value: float | None) -> str:
    """Return a whole number with separators."""
    return NOTHING if value is None else f"{round(value):,}"


def rate(value: float | None) -> str:
    """Return a number per second; a small one with a decimal."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}" if value >= 0.1 else "<0.1"


def duration(value: float | timedelta | None) -> str:
    """Return a span of time in its two largest units."""
    if value is None:
        return NOTHING
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{int(seconds)} s"
    for n, (size, unit) in enumerate(UNITS):
        if seconds >= size:
            smaller, name = UNITS[n + 1] if n + 1 < len(UNITS) else (1.0, "s")
            rest = int(seconds % size / smaller)
            return f"{int(seconds // size)} {unit}" + (f" {rest} {name}" if rest else "")
    return NOTHING


def coarse(value: float | timedelta | None) -> str:
    """Return a span of time in its largest unit."""
    if value is None:
        return NOTHING
    seconds = abs(value.total_seconds() if isinstance(value, timedelta) else value)
    size, unit = next(((size, unit) for size, unit in UNITS if seconds >= size), (1.0, "s"))
    return f"{int(seconds / size)} {unit}"


def moment(value: datetime | None) -> str:
    """Return a time with its zone, to the second, in the zone of this process."""
    return NOTHING if value is None else f"{value.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def clock(value: datetime | None) -> str:
    """Return the time of day."""
    return NOTHING if value is None else f"{value.astimezone():%H:%M:%S}"


def ago(value: datetime | None, *, now: datetime | None) -> Markup:
    """Return how long ago a time is, or in how long it will be, as an element with the whole time as its title."""
    if value is None or now is None:
        return Markup(NOTHING)
    seconds = (now - value).total_seconds()
    words = "now" if abs(seconds) < 1 else f"{coarse(seconds)} ago" if seconds > 0 else f"in {coarse(seconds)}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(value.isoformat(), moment(value), words)


FILTERS: Final = {
    "text": text, "block": block, "number": number, "rate": rate, "duration": duration,
    "coarse": coarse, "moment": moment, "clock": clock,
}  # fmt: skip
