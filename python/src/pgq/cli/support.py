"""What the commands share: the database to use, types of options, tables, and errors that have an exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Any, Final

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgq.convert import Interval
from pgq.errors import Error
from pgq.queue import Queue
from pgq.version import check_version
from pgq.views import Views


class CommandError(click.ClickException):
    """An error that ends the command with exit code 1: one line on standard error, and a second with the hint."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error."""
        click.echo(f"pgq: {self.message}", err=True, file=file)
        if self.hint:
            click.echo(f"hint: {self.hint}", err=True, file=file)


class ConnectionFailed(CommandError):
    """The database cannot be reached; exit code 3."""

    exit_code = 3


@contextmanager
def command_errors() -> Iterator[None]:
    """Turn errors of pgq, psycopg and bad values into a CommandError; any other shows its traceback."""
    try:
        yield
    except Error as error:
        raise CommandError(str(error), error.hint) from error
    except psycopg.ProgrammingError as error:
        # libpq quotes a DSN that it cannot read, password and all.
        message = error.diag.message_primary if error.sqlstate else "the DSN is not one that libpq can read"
        raise CommandError(message or "the database refused", error.diag.message_hint) from error
    except psycopg.OperationalError as error:
        if error.sqlstate:
            raise CommandError(error.diag.message_primary or "the database refused", error.diag.message_hint) from error
        first_line = (str(error).strip() or "no reason given").splitlines()[0]
        raise ConnectionFailed(f"cannot reach the database: {first_line}") from error
    except psycopg.Error as error:
        raise CommandError(error.diag.message_primary or type(error).__name__, error.diag.message_hint) from error
    except (TypeError, ValueError) as error:
        raise CommandError(str(error)) from error


@dataclass(frozen=True)
class Target:
    """The pgq that a command uses: a DSN (empty: libpq's environment) and a schema (None: the search path)."""

    dsn: str
    schema: str | None

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """Open a connection in autocommit mode; its errors become a CommandError."""
        with command_errors(), psycopg.connect(self.dsn, autocommit=True, application_name="pgq") as conn:
            yield conn

    @contextmanager
    def queue(self) -> Iterator[Queue]:
        """Open the queue. Raises Outdated, as a CommandError, when the SQL is older than this program."""
        with self.connection() as conn:
            queue = Queue(conn, schema=self.schema)
            check_version(queue)
            yield queue

    @contextmanager
    def views(self) -> Iterator[Views]:
        """Open the views, after the same check of the version."""
        with self.queue() as queue:
            yield Views(queue.conn, schema=self.schema)


pass_target = click.make_pass_decorator(Target)


def has_password(dsn: str) -> bool:
    """Return whether the DSN holds a password; False for a DSN that libpq cannot read, which the connection reports."""
    try:
        return "password" in conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return False


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


def shown(value: Any) -> str:
    """Return a value of the database as text for people."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, timedelta):
        return str(timedelta(seconds=round(value.total_seconds())))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print rows under a heading, each column as wide as its widest value."""
    lines = [[column.replace("_", " ") for column in columns]] + [[shown(row[c]) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    """Print JSON for other programs, with times in ISO 8601 and intervals in seconds."""

    def encode(one: Any) -> Any:
        return one.total_seconds() if isinstance(one, timedelta) else one.isoformat()

    click.echo(json.dumps(value, default=encode, indent=2))
