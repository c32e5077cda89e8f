"""The errors of the commands: one line each, an exit code, and the hint that a refusal lacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, Final

import click
import psycopg

from pgq.cli.output import colored
from pgq.errors import Error, permission_hint


class CommandError(click.ClickException):
    """An error that ends the command with exit code 1: one line on standard error, and a second with the hint."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error."""
        click.echo(f"{colored('pgq:', 'red')} {self.message}", err=True, file=file)
        if self.hint:
            click.echo(f"hint: {self.hint}", err=True, file=file)


class ConnectionFailed(CommandError):
    """The database cannot be reached; exit code 3."""

    exit_code = 3


# PostgreSQL has no hint for a missing privilege, and the first call that it refuses may be one that all commands make.
PRIVILEGES: Final = {
    **dict.fromkeys(("enqueue", "result", "signal"), "producer"),
    "worker": "worker",
    **dict.fromkeys(("list", "stats", "ps", "top", "queues", "schedules"), "reader"),
    **dict.fromkeys(("show", "retry", "update", "cancel", "purge", "configure", "pause", "resume"), "admin"),
    "doctor": "reader",
    **dict.fromkeys(("set", "remove", "run", "sync"), "admin"),
    **dict.fromkeys(("upgrade", "uninstall", "grant", "revoke"), "owner"),
}
REACH_HINT: Final = (
    "See whether the server runs and takes this connection: psql with the same DSN, which is that of --dsn, PGQ_DSN or "
    "libpq's environment (PGHOST, PGDATABASE, …), tells the same."
)
DSN_HINT: Final = "Write it as host=db dbname=shop user=web, or as postgresql://web@db/shop."
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
            raise ConnectionFailed(f"cannot reach the database: {first_line}", REACH_HINT) from error
        if isinstance(error, psycopg.ProgrammingError) and not error.sqlstate:
            # libpq quotes a DSN that it cannot read, password and all.
            raise CommandError("the DSN is not one that libpq can read", DSN_HINT) from error
        raise CommandError(error.diag.message_primary or "the database refused", hint) from error
    except (TypeError, ValueError) as error:
        raise CommandError(str(error)) from error
