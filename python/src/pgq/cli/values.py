"""The values that commands take: durations, sizes, times and JSON."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any, Final

import click

from pgq.convert import Interval

# Seconds by unit; PostgreSQL reads the same units.
UNITS: Final = {
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
}
PART: Final = re.compile(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*([a-z]+)\s*", re.IGNORECASE)
SHORT: Final = re.compile(r"\d{1,9}(?:\.\d{1,6})?(?:ms|s|m|h|d)")
NO_UNIT: Final = re.compile(r"[-+.\d\s]*")


def duration(value: str | timedelta) -> timedelta:
    """Return numbers with units, such as 500ms, 10m or '1 hour 30 minutes', as a timedelta."""
    if isinstance(value, timedelta):
        return value
    parts = PART.findall(value)
    if not parts or PART.sub("", value) or any(unit.lower() not in UNITS for _, unit in parts):
        raise click.BadParameter(f"{value!r} is not a duration such as 500ms, 30s, 5m, 2h, 7d or '10 minutes'")
    try:
        return timedelta(seconds=sum(float(number) * UNITS[unit.lower()] for number, unit in parts))
    except OverflowError as error:
        raise click.BadParameter(f"{value!r} is too long") from error


def interval(value: str | timedelta) -> Interval:
    """
    Return a short duration, such as 500ms or 10m, as a timedelta, and other text as it is, for PostgreSQL to read.

    A number without a unit is refused: PostgreSQL would take it for seconds.
    """
    if isinstance(value, timedelta) or SHORT.fullmatch(value):
        return duration(value)
    if NO_UNIT.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not a duration such as 500ms, 30s, 5m, 2h, 7d or '10 minutes'")
    return value


# Bytes by unit.
SIZE_UNITS: Final = {
    "": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3
}  # fmt: skip
SIZE: Final = re.compile(r"\s*(\d{1,12})\s*([a-z]*)\s*", re.IGNORECASE)


def size(value: str | int) -> int:
    """Return a number of bytes, given as such or with a unit, such as 500kB or 16MiB."""
    if isinstance(value, int):
        return value
    match = SIZE.fullmatch(value)
    if match is None or match[2].lower() not in SIZE_UNITS:
        raise click.BadParameter(f"{value!r} is not a size such as 16MiB, 500kB or a number of bytes")
    count = int(match[1]) * SIZE_UNITS[match[2].lower()]
    # The range of an integer of PostgreSQL.
    if not 1 <= count < 2**31:
        raise click.BadParameter(f"{value!r} is not from 1 byte to less than 2 GiB")
    return count


def from_json(value: Any) -> Any:
    """Return the value of JSON text; a default, which is no text, stays as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from error


def moment(value: str | datetime) -> datetime:
    """Return the time that ISO 8601 text names; without an offset it is local."""
    if isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(value).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise click.BadParameter(f"{value!r} is not a time such as 2030-01-31T12:00+01:00") from error
