"""What the commands share: the database to use, types of options, tables, and errors that have an exit code."""

from __future__ import annotations

import json
import re
import shutil
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import IO, Any, Final

import click
import psycopg
from click.core import ParameterSource
from psycopg.conninfo import conninfo_to_dict

from pgq.convert import Interval
from pgq.errors import Error, permission_hint
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


# PostgreSQL has no hint for a missing privilege, and the first call that it refuses may be one that all commands make.
PRIVILEGES: Final = {
    **dict.fromkeys(("enqueue", "result", "signal"), "producer"),
    "worker": "worker",
    **dict.fromkeys(("list", "stats", "ps", "queues", "schedules"), "reader"),
    **dict.fromkeys(("show", "retry", "update", "cancel", "purge", "configure", "pause", "resume"), "admin"),
    **dict.fromkeys(("set", "remove", "run", "sync"), "admin"),
    **dict.fromkeys(("upgrade", "uninstall", "grant", "revoke"), "owner"),
}
INSTALL_HINT: Final = "Connect as the owner of the database or schema, or let it grant CREATE to this role."


def hint_of(error: psycopg.Error, role: str | None) -> str | None:
    """Return the server's hint, or else which privilege the command lacks, or else the driver's hint."""
    if error.diag.message_hint:
        return error.diag.message_hint
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        context = click.get_current_context(silent=True)
        command = context.info_name if context else None
        if command == "install":
            return INSTALL_HINT
        if role is not None and command in PRIVILEGES:
            return permission_hint(PRIVILEGES[command], role)
    notes = getattr(error, "__notes__", [])
    return notes[0].removeprefix("hint: ") if notes else None


@contextmanager
def command_errors(conn: psycopg.Connection[Any] | None = None) -> Iterator[None]:
    """Turn errors of pgq, psycopg and bad values into a CommandError; any other shows its traceback."""
    try:
        yield
    except Error as error:
        raise CommandError(str(error), error.hint) from error
    except psycopg.Error as error:
        hint = hint_of(error, conn.info.user if conn is not None and not conn.closed else None)
        if isinstance(error, psycopg.OperationalError) and not error.sqlstate:
            first_line = (str(error).strip() or "no reason given").splitlines()[0]
            raise ConnectionFailed(f"cannot reach the database: {first_line}") from error
        if isinstance(error, psycopg.ProgrammingError) and not error.sqlstate:
            # libpq quotes a DSN that it cannot read, password and all.
            raise CommandError("the DSN is not one that libpq can read") from error
        raise CommandError(error.diag.message_primary or "the database refused", hint) from error
    except (TypeError, ValueError) as error:
        raise CommandError(str(error)) from error


@dataclass(frozen=True)
class Target:
    """
    The pgq that a command uses: DSNs (an empty one: libpq's environment), and a schema (None: the search path).

    Most commands use one database.
    """

    dsns: tuple[str, ...]
    schema: str | None

    @property
    def dsn(self) -> str:
        """The only DSN. Raises UsageError if there are several."""
        if len(self.dsns) > 1:
            raise click.UsageError(
                f"this command uses one database, and there are {len(self.dsns)}: say which by --dsn after the command"
            )
        return self.dsns[0]

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """
        Open a connection in autocommit mode; its errors become a CommandError.

        It prepares no statements: a pooler in transaction mode would run them in sessions that have not prepared them.
        """
        with (
            command_errors(),
            psycopg.connect(self.dsn, autocommit=True, application_name="pgq", prepare_threshold=None) as conn,
            command_errors(conn),
        ):
            yield conn

    @contextmanager
    def queue(self) -> Iterator[Queue]:
        """
        Open the queue, and say when a call waits for another transaction.

        Raises Outdated, as a CommandError, when the SQL is older than this program.
        """
        with self.connection() as conn, waits_are_told(self.dsn, conn):
            queue = Queue(conn, schema=self.schema)
            check_version(queue)
            yield queue

    @contextmanager
    def views(self) -> Iterator[Views]:
        """Open the views, after the same check of the version."""
        with self.queue() as queue:
            yield Views(queue.conn, schema=self.schema)


# A command that waits in two looks at the same transactions, half a second apart, says so.
LOOK_EVERY: Final = 0.5
BLOCKERS: Final = """
    SELECT b.pid, a.application_name
    FROM unnest(pg_blocking_pids(%s)) AS b (pid)
    LEFT JOIN pg_stat_activity AS a USING (pid)
    ORDER BY b.pid
"""


@contextmanager
def waits_are_told(dsn: str, conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Say on standard error when a statement of this connection waits for other transactions, once for each of them."""
    pid, done = conn.info.backend_pid, threading.Event()

    def watch() -> None:
        before: list[tuple[Any, ...]] = []
        told: list[tuple[Any, ...]] = []
        # The watch itself needs a connection: without one, nothing is told.
        with suppress(psycopg.Error):
            if done.wait(LOOK_EVERY):
                return
            with psycopg.connect(dsn, autocommit=True, application_name="pgq") as own:
                while True:
                    blockers = own.execute(BLOCKERS, [pid]).fetchall()
                    if blockers and blockers == before and blockers != told and not done.is_set():
                        told = blockers
                        names = [f"{other} ({shown(name)})" if name else f"{other}" for other, name in blockers]
                        click.echo(f"pgq: waiting for the transaction of process {', '.join(names)}", err=True)
                        click.echo("hint: It has enqueued or locked the same job; this goes on when it ends.", err=True)
                    before = blockers
                    if done.wait(LOOK_EVERY):
                        return

    thread = threading.Thread(target=watch, name="pgq-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(LOOK_EVERY)


class Dsn(click.types.StringParamType):
    """A connection string; in the environment there may be several, one on each line."""

    name = "text"

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Return the lines."""
        return [line.strip() for line in rv.splitlines() if line.strip()]


DSN: Final = Dsn()


def warn_of_password(ctx: click.Context, name: str, dsns: Iterable[str]) -> None:
    """Warn of a password in --dsn; from the environment it is fine."""
    if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE and any(map(has_password, dsns)):
        click.echo("pgq: every user of this machine can read the password in --dsn", err=True)
        click.echo("hint: Keep it in a password file (PGPASSFILE), a service file or PGQ_DSN.", err=True)


def dsns_given(ctx: click.Context, param: click.Parameter, dsns: tuple[str, ...]) -> None:
    """Let DSNs after the command replace those before it."""
    if dsns and isinstance(ctx.obj, Target):
        warn_of_password(ctx, "dsn", dsns)
        ctx.obj = replace(ctx.obj, dsns=dsns)


def schema_given(ctx: click.Context, param: click.Parameter, schema: str | None) -> None:
    """Let a schema after the command replace one before it."""
    if schema is not None and isinstance(ctx.obj, Target):
        ctx.obj = replace(ctx.obj, schema=schema)


as_json = click.option("--json", "json_", is_flag=True, help="Print JSON.")


def takes_database(command: Callable[..., Any]) -> Callable[..., Any]:
    """Take --dsn and --schema after the command as well as before it."""
    help_ = "As before the command."
    dsn = click.option("--dsn", type=DSN, multiple=True, expose_value=False, callback=dsns_given, help=help_)
    schema = click.option("--schema", expose_value=False, callback=schema_given, help=help_)
    return dsn(schema(command))


def pass_target(command: Callable[..., Any]) -> Callable[..., Any]:
    """Pass the Target as first argument, and take --dsn and --schema after the command as well as before it."""
    return takes_database(click.make_pass_decorator(Target)(command))


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


def shown(value: Any) -> str:
    """Return a value of the database as text for people: one line, without control characters."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M:%S}"
    if isinstance(value, timedelta):
        return str(timedelta(seconds=round(value.total_seconds())))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return "".join(character if character.isprintable() else " " for character in str(value))


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "FW" else 1
        for character in text
    )


def fit(text: str, width: int) -> str:
    """Return a text in exactly this width: filled with spaces, or cut, with a sign at its end."""
    if width_of(text) > width:
        while width_of(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - width_of(text))


EXTRA: Final = 6


@dataclass(frozen=True)
class Column:
    """
    A column of a table.

    ``rank`` is its importance: the table leaves out the column with the largest one first. ``least`` is the width to
    which its text may be cut; None: it is never cut. Columns from EXTRA on are left out when others would be cut to
    less than twice that.
    """

    name: str
    rank: int
    least: int | None = None


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> None:
    """
    Print rows under a heading, each column as wide as its widest value, in lines that fit the terminal.

    Where they do not, unimportant columns are left out, and texts are cut. A terminal that is none is as wide as the
    environment variable COLUMNS says, or else 80.
    """
    space = shutil.get_terminal_size().columns
    cells = {c: [c.name.replace("_", " "), *(shown(row[c.name]) for row in rows)] for c in columns}
    widths = {c: max(map(width_of, cells[c])) for c in columns}

    def least(column: Column, times: int = 1) -> int:
        return widths[column] if column.least is None else min(widths[column], times * column.least)

    def excess(used: Iterable[int]) -> int:
        return sum(width + 2 for width in used) - 2 - space

    by_rank = sorted(columns, key=lambda c: c.rank, reverse=True)
    for column in by_rank[:-1]:
        if excess(least(c, times=2 if column.rank >= EXTRA else 1) for c in widths) > 0:
            del widths[column]
    for column in by_rank:
        if column in widths:
            widths[column] = max(least(column), widths[column] - max(0, excess(widths.values())))
    for line in range(len(rows) + 1):
        click.echo("  ".join(fit(cells[c][line], widths[c]) for c in widths).rstrip())


def print_json(value: Any) -> None:
    """Print JSON for other programs, with times in ISO 8601 and intervals in seconds."""

    def encode(one: Any) -> Any:
        return one.total_seconds() if isinstance(one, timedelta) else one.isoformat()

    click.echo(json.dumps(value, default=encode, indent=2))
