"""What commands print: values for people, tables that fit the terminal, and JSON."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import click

as_json = click.option("--json", "json_", is_flag=True, help="Print JSON.")
may_show_args = click.option(
    "--show-args/--no-args",
    default=None,
    help="Show arguments, results and errors, or none of them.  [default: show them, but not of sensitive queues]",
)


def shown(value: Any) -> str:
    """Return a value of the database as text for people: one line, without control characters."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return local(value)
    if isinstance(value, timedelta):
        return str(timedelta(seconds=round(value.total_seconds())))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return "".join(character if character.isprintable() else " " for character in str(value))


def local(time: datetime) -> str:
    """Return a time in the zone of this machine, with its offset, as psql shows it: 2030-01-31 12:00:00+01."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S%z}".removesuffix("00")


def colored(text: str, color: str | None, *, bold: bool = False) -> str:
    """Return a text for ``click.echo``, which shows colors on a terminal only; without them if NO_COLOR is set."""
    if os.environ.get("NO_COLOR") or not (color or bold):
        return text
    return click.style(text, fg=color, bold=bold or None)


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "FW" else 1
        for character in text
    )


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Return a text in exactly this width: filled with spaces (``right``: before it), or cut, with a sign."""
    if width_of(text) > width:
        while width_of(text) > width - 1:
            text = text[:-1]
        text += "…"
    space = " " * (width - width_of(text))
    return space + text if right else text + space


EXTRA: Final = 6


@dataclass(frozen=True)
class Column:
    """
    A column of a table.

    ``rank`` is its importance: the table leaves out the column with the largest one first. ``least`` is the width to
    which its text may be cut; None: it is never cut. Columns from EXTRA on are left out when others would be cut to
    less than twice that. ``colors`` has those of values that an operator should notice. Numbers stand at the right.
    """

    name: str
    rank: int
    least: int | None = None
    colors: Mapping[Any, str] = field(default_factory=dict, hash=False)
    right: bool = False


def table(rows: Sequence[dict[str, Any]], columns: Sequence[Column], space: int) -> list[dict[Column, str]]:
    """
    Return a heading and rows as texts of equal width by column, with space for two more between the columns.

    Where they do not fit, unimportant columns are left out, and texts are cut.
    """
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
    return [{c: fit(cells[c][n], width, right=c.right) for c, width in widths.items()} for n in range(len(rows) + 1)]


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[Column]) -> None:
    """
    Print rows under a heading, each column as wide as its widest value, in lines that fit the terminal.

    A terminal that is none is as wide as the environment variable COLUMNS says, or else 80.
    """
    for n, texts in enumerate(table(rows, columns, shutil.get_terminal_size().columns)):
        last = list(texts)[-1]
        line = []
        for c, text in texts.items():
            color = c.colors.get(rows[n - 1][c.name]) if n and c.colors else None
            line.append(colored(text.rstrip() if c is last else text, color, bold=not n))
        click.echo("  ".join(line).rstrip())


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print JSON for other programs, with times in ISO 8601 and intervals in seconds; None for indent: in one line."""

    def encode(one: Any) -> Any:
        return one.total_seconds() if isinstance(one, timedelta) else one.isoformat()

    click.echo(json.dumps(value, default=encode, indent=indent))


def show_done(text: str, value: dict[str, Any], json_: bool) -> None:
    """Print what a command has done: a line for people, or JSON."""
    if json_:
        print_json(value)
    else:
        click.echo(text)
