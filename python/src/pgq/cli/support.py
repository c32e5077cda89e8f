"""What the commands share: the way to the database, types of values, tables, and mistakes that know their exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import IO, Any

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgq.errors import Error
from pgq.queue import Queue
from pgq.version import check_version
from pgq.views import Views


class Mistake(click.ClickException):
    """One line on standard error, a second one with what to do about it, and exit code 1."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"pgq: {self.message}", err=True, file=file)
        if self.hint:
            click.echo(f"hint: {self.hint}", err=True, file=file)


class Unreachable(Mistake):
    """There is no way to the database; exit code 3."""

    exit_code = 3


@contextmanager
def mistakes() -> Iterator[None]:
    """Turn what is known to go wrong into a Mistake."""
    try:
        yield
    except Error as error:
        raise Mistake(str(error), error.hint) from error
    except psycopg.ProgrammingError as error:
        # libpq quotes a DSN that it cannot read, password and all.
        message = error.diag.message_primary if error.sqlstate else "the DSN is not one that libpq can read"
        raise Mistake(message or "the database refused", error.diag.message_hint) from error
    except psycopg.OperationalError as error:
        if error.sqlstate:
            raise Mistake(error.diag.message_primary or "the database refused", error.diag.message_hint) from error
        first_line = (str(error).strip() or "no reason given").splitlines()[0]
        raise Unreachable(f"cannot reach the database: {first_line}") from error
    except psycopg.Error as error:
        raise Mistake(error.diag.message_primary or type(error).__name__, error.diag.message_hint) from error
    except (TypeError, ValueError) as error:
        raise Mistake(str(error)) from error


@dataclass(frozen=True)
class Target:
    """Where pgq lives: a DSN (empty: libpq's environment) and a schema (None: the search path)."""

    dsn: str
    schema: str | None

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection in autocommit mode; what goes wrong with it is a Mistake."""
        with mistakes(), psycopg.connect(self.dsn, autocommit=True, application_name="pgq") as conn:
            yield conn

    @contextmanager
    def queue(self) -> Iterator[Queue]:
        """The queue there; its SQL is no older than this program."""
        with self.connection() as conn:
            queue = Queue(conn, schema=self.schema)
            check_version(queue)
            yield queue

    @contextmanager
    def views(self) -> Iterator[Views]:
        """The views there, likewise."""
        with self.queue() as queue:
            yield Views(queue.conn, schema=self.schema)


def has_password(dsn: str) -> bool:
    """Whether there is a password in it; what libpq cannot read is for others to complain of."""
    try:
        return "password" in conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return False


UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(value: str | timedelta) -> timedelta:
    """A number with a unit, such as 500ms, 30s, 5m, 2h or 7d."""
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not a duration such as 500ms, 30s, 5m, 2h or 7d")
    return timedelta(seconds=float(match[1]) * UNITS[match[2]])


def from_json(value: Any) -> Any:
    """Any JSON; what is not text is a default."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not JSON: {error}") from error


def moment(value: str | datetime) -> datetime:
    """A time in ISO 8601; without an offset it is local."""
    if isinstance(value, datetime):
        return value
    try:
        return datetime.fromisoformat(value).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        raise click.BadParameter(f"{value!r} is not a time such as 2030-01-31T12:00+01:00") from error


def shown(value: Any) -> str:
    """A value of the database for people."""
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
    """Rows under a heading, each column as wide as its widest value."""
    lines = [[column.replace("_", " ") for column in columns]] + [[shown(row[c]) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    """For other programs: times in ISO 8601, intervals in seconds."""

    def encode(one: Any) -> Any:
        return one.total_seconds() if isinstance(one, timedelta) else one.isoformat()

    click.echo(json.dumps(value, default=encode, indent=2))
