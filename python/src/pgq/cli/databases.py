"""Several databases in one command: their names, and what is done in each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import click
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgq.cli.errors import CommandError, command_errors
from pgq.cli.output import Column, print_json, print_table
from pgq.cli.target import Target
from pgq.views import Views
from pgq.worker.server import Server

# Seconds after which one of several databases counts as not reachable, unless its DSN says otherwise.
REACHABLE_WITHIN: Final = 10
DATABASE: Final = Column("database", 0, least=8)


def databases(target: Target) -> dict[str, Target]:
    """
    Return a target for each database, by its name.

    The name is that of the service, or else of the database; where two are equal, with host and port. Raises UsageError
    for two DSNs that lead to the same database, and ProgrammingError for one that libpq cannot read.
    """
    names = [names_of(dsn) for dsn in target.dsns]
    if len({place for _, place in names}) < len(names):
        raise click.UsageError("two of the --dsn lead to the same database")
    short = [name for name, _ in names]
    return {
        name if short.count(name) == 1 else place: replace(target, dsns=(dsn,))
        for dsn, (name, place) in zip(target.dsns, names, strict=True)
    }


def names_of(dsn: str) -> tuple[str, str]:
    """Return the service of a DSN, or else the name of the database; and that with its host and port."""
    service = conninfo_to_dict(dsn).get("service")
    found = conninfo_to_dict(Server.resolve(dsn).conninfo)
    if found.get("service"):
        # There is no such service; the connection says so.
        return str(service), f"service {service}"
    dbname = str(found.get("dbname") or found.get("user"))
    return str(service or dbname), f"{dbname}@{found.get('host') or found.get('hostaddr')}:{found.get('port')}"


def in_each(target: Target, act: Callable[[str | None, Target], None]) -> int:
    """
    Call a function with each database, and with its name if there are several; return the exit code of the command.

    The error of one of several is shown, and the others follow.
    """
    if len(target.dsns) == 1:
        act(None, target)
        return 0
    with command_errors():
        found = databases(target)
    code = 0
    for name, one in found.items():
        timeout = conninfo_to_dict(one.dsn).get("connect_timeout") or REACHABLE_WITHIN
        try:
            act(name, replace(one, dsns=(make_conninfo(one.dsn, connect_timeout=timeout),)))
        except CommandError as error:
            CommandError(f"{name}: {error.message}", error.hint).show()
            code = max(code, error.exit_code)
    return code


def print_rows(
    target: Target,
    read: Callable[[Views], list[dict[str, Any]]],
    columns: Sequence[Column],
    json_: bool,
    cells: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> None:
    """
    Print the rows that a function reads in each database, and end the command with an exit code if one is not read.

    Where there are several databases, each row has the name of its own. ``cells`` returns what the table shows of a
    row.
    """
    rows: list[dict[str, Any]] = []

    def collect(name: str | None, one: Target) -> None:
        with one.views() as views:
            rows.extend({**({} if name is None else {DATABASE.name: name}), **row} for row in read(views))

    code = in_each(target, collect)
    if json_:
        print_json(rows)
    else:
        several = (DATABASE,) if len(target.dsns) > 1 else ()
        print_table([cells(row) for row in rows], (*several, *columns))
    if code:
        click.get_current_context().exit(code)
