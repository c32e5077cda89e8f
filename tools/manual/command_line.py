"""docs/cli.md, from the commands and options of the program."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

import click

from pgq.cli import main

INTRODUCTION: Final = """\
# Command line

Every command of `pgq`, with its arguments and options. This page is generated from the program; `pgq COMMAND --help`
shows the same. [Work with the commands](commands.md) says when to use which, and has the [exit
codes](commands.md#exit-codes).

`--dsn` and `--schema` may stand before or after each command; below they are left out. A DURATION is a number with a
unit, such as `30s`, `5m` or `'10 minutes'`, and a SIZE one such as `16MiB`.
"""


def page() -> str:
    """Return the page."""
    context = click.Context(main, info_name="pgq")
    found = sorted(_commands(main, "pgq"))
    contents = "".join(f"- [{name}](#{_anchor(name)})\n" for name, _ in found)
    sections = [f"## pgq\n\n{_about(main)}\n\n{_options(main, context)}\n"]
    sections += [_section(name, command) for name, command in found]
    return "\n".join([INTRODUCTION, contents, *sections])


def _commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    for command in group.commands.values():
        if command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from _commands(command, f"{name} {command.name}")
        else:
            yield f"{name} {command.name}", command


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    parts = [f"## {name}", f"```text\n{usage}\n```", _about(command)]
    options = _options(command, context)
    return "\n\n".join([*parts, *([options] if options else [])]) + "\n"


def _about(command: click.Command) -> str:
    """Return the help of a command; click marks paragraphs that keep their lines by a line with a backspace."""
    text = inspect.cleandoc(command.help or "").replace("\b\n", "").split("\f")[0].strip()
    return re.sub(r"(?<![\w`-])--[a-z][a-z-]*", r"`\g<0>`", text)


def _options(command: click.Command, context: click.Context) -> str:
    rows = [_row(one, context) for one in command.get_params(context) if isinstance(one, click.Option)]
    shown = [row for row in rows if row is not None]
    return "\n".join(["| option | |", "|---|---|", *shown]) if shown else ""


def _row(option: click.Option, context: click.Context) -> str | None:
    """Return the row of an option; None for those that every command has."""
    repeated = {"--help"} if context.command is main else {"--help", "--dsn", "--schema"}
    if option.hidden or repeated & set(option.opts):
        return None
    return f"| {_names(option, context)} | {_cell(option.help or '')}{_default(option)} |"


def _names(option: click.Option, context: click.Context) -> str:
    names = ", ".join(option.opts + option.secondary_opts)
    if option.is_flag or option.count:
        return f"`{names}`"
    return f"`{names} {_cell(option.make_metavar(context))}`"


def _default(option: click.Option) -> str:
    """Return the default, where the help does not say it."""
    default: Any = option.default
    if option.is_flag or option.required or default in (None, ()) or not isinstance(default, (str, int, float)):
        return ""
    return f"  Default: `{default}`."


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|")
