"""The command that says what is wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from itertools import groupby
from shutil import get_terminal_size
from typing import Any, Final

import click

from pgq import doctor as doctors
from pgq.cli.databases import DATABASE, in_each
from pgq.cli.output import as_json, colored, print_json, shown
from pgq.cli.target import Target, pass_target

COLOURS: Final = {"error": "red", "warning": "yellow", "note": "blue"}
# Lines that are longer are hard to read.
WIDEST: Final = 120


@click.command()
@as_json
@pass_target
def doctor(target: Target, json_: bool) -> None:
    """
    Say what is wrong, what it means for the jobs, and what mends it.

    The exit code is for health checks: 0 if nothing is found but warnings and notes, 1 if there is an error or pgq is
    not installed, 3 if the database cannot be reached. What the role may not see, and what could not be checked in
    time, is listed; it does not change the exit code. The owner of pgq with pg_monitor sees all.
    """
    findings: list[dict[str, Any]] = []
    unseen: list[dict[str, Any]] = []
    is_healthy = True

    def examine(name: str | None, one: Target) -> None:
        nonlocal is_healthy
        with one.connection() as conn:
            found = doctors.examine(conn, one.schema)
        is_healthy &= found.is_healthy
        where = {} if name is None else {DATABASE.name: name}
        findings.extend(where | finding.as_dict() for finding in found.findings)
        unseen.extend(where | one.as_dict() for one in found.unseen)
        if not json_:
            print_examination(name, found)

    code = in_each(target, examine)
    if json_:
        print_json({"healthy": is_healthy and not code, "findings": findings, "unseen": unseen})
    click.get_current_context().exit(code or int(not is_healthy))


def print_examination(name: str | None, found: doctors.Examination) -> None:
    """Print the findings of one database, what it has been examined for in vain, and a summary."""
    label = "" if name is None else f"{name}: "
    for finding in found.findings:
        severity = colored(finding.severity, COLOURS[finding.severity], bold=True)
        print_lines(f"{label}{severity}: ", f"{label}{finding.severity}: ", [finding.title])
        print_lines("  ", "  ", [finding.meaning])
        print_lines("  mend: ", "  mend: ", [finding.remedy])
        click.echo(f"  more: {finding.page}\n")
    by_reason = sorted(found.unseen, key=lambda one: (one.reason, one.remedy or ""))
    for (reason, remedy), ones in groupby(by_reason, key=lambda one: (one.reason, one.remedy)):
        codes = sorted({one.code for one in ones})
        print_lines(f"{label}not checked: ", f"{label}not checked: ", [f"{', '.join(codes)}: {reason}."])
        if remedy:
            print_lines("  to see it: ", "  to see it: ", [remedy])
    counts = [sum(one.severity == severity for one in found.findings) for severity in COLOURS]
    parts = [f"{count} {what}{'' if count == 1 else 's'}" for count, what in zip(counts, COLOURS, strict=True) if count]
    click.echo(
        f"{label}{', '.join(parts) if parts else 'nothing is wrong'}"
        + (", as far as could be seen" if found.unseen else "")
    )


def print_lines(begin: str, plain: str, texts: Iterable[str]) -> None:
    """Print texts in lines that fit the terminal; ``plain`` is how their begin looks, without codes of colours."""
    width = min(get_terminal_size().columns, WIDEST)
    for text in texts:
        lines = textwrap.wrap(
            shown(text), max(width, 40), initial_indent=" " * len(plain), subsequent_indent="  ",
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        click.echo("\n".join([begin + lines[0].lstrip(), *lines[1:]]))
