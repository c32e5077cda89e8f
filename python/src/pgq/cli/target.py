"""The databases that a command uses: which, how it takes them, and their connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import click
import psycopg
from click.core import ParameterSource
from psycopg.conninfo import conninfo_to_dict

from pgq.cli.errors import command_errors
from pgq.cli.waits import waits_are_told
from pgq.queue import Queue
from pgq.version import check_version
from pgq.views import Views


@dataclass(frozen=True)
class Target:
    """
    The pgq that a command uses: DSNs (an empty one: libpq's environment), and a schema (None: the search path).

    Most commands use one database.
    """

    # They may hold passwords.
    dsns: tuple[str, ...] = field(repr=False)
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
        with command_errors(), self.connect() as conn, command_errors(conn):
            yield conn

    def connect(self) -> psycopg.Connection[Any]:
        """Open such a connection; its errors are those of psycopg."""
        return psycopg.connect(self.dsn, autocommit=True, application_name="pgq", prepare_threshold=None)

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
    """Let DSNs after the command replace those before it; a completion finds them in ``meta``."""
    if dsns:
        ctx.meta["pgq.dsns"] = dsns
    if dsns and isinstance(ctx.obj, Target):
        warn_of_password(ctx, "dsn", dsns)
        ctx.obj = replace(ctx.obj, dsns=dsns)


def schema_given(ctx: click.Context, param: click.Parameter, schema: str | None) -> None:
    """Let a schema after the command replace one before it; a completion finds it in ``meta``."""
    if schema is not None:
        ctx.meta["pgq.schema"] = schema
    if schema is not None and isinstance(ctx.obj, Target):
        ctx.obj = replace(ctx.obj, schema=schema)


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
