"""The command ``pgq top``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from threading import Event
from time import monotonic
from typing import Any, Final

import click
import psycopg

from pgq.cli.errors import CommandError
from pgq.cli.output import as_json, print_json
from pgq.cli.target import Target, pass_target
from pgq.cli.top.frame import Status, report
from pgq.cli.top.lists import OVER, Source
from pgq.cli.top.reader import EXAMINE_EVERY
from pgq.cli.top.view import View
from pgq.doctor import Examination, examine
from pgq.overview import History, Rates, Snapshot, read

# Seconds between the two readings from which --once takes the rates.
ONCE: Final = 1.0


@click.command()
@click.option("--once", is_flag=True, help="Print what there is as text, with the rates of one second, and end.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=2.0, metavar="SECONDS", help="Time between two readings."
)
@as_json
@pass_target
def top(target: Target, once: bool, interval: float, json_: bool) -> None:
    """
    Show what goes on: queues, kinds, what waits and died, workers, and what pgq doctor says.

    In a terminal it is redrawn in place, and ? shows the keys; this takes the extra top. Elsewhere, and with --json, it
    prints a snapshot as text, or a line of JSON, at each interval.

    It never counts all jobs: a number with ~ is an estimate. A reading is given up after two seconds, and takes at most
    a tenth of the time.
    """
    with target.queue() as queue:
        conn = queue.conn
        database = f"{conn.info.dbname}@{conn.info.host}"
        if once or json_ or not is_terminal():
            for source in readings(conn, target.schema, interval, once=once):
                show_text(source, Status(database), json_=json_, once=once)
            return
        # A role that may read nothing is told so before the screen is cleared.
        read(conn, schema=target.schema, parts=["ids"])
    screen()(target.connect, target.schema, database, View(interval))


def is_terminal() -> bool:
    """Return whether there is a terminal to draw in, and to read keys from."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def screen() -> Callable[..., None]:
    """Return the function that draws in a terminal. Raises CommandError without rich."""
    try:
        from pgq.cli.top.screen import show  # noqa: PLC0415 - an extra
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if name not in ("rich", "termios"):
            raise
        raise CommandError(
            f"this Python has no module {name}, with which pgq top draws in a terminal",
            "Install pgq-jobs[top], or call pgq top --once.",
        ) from error
    return show


def readings(conn: psycopg.Connection[Any], schema: str | None, interval: float, *, once: bool) -> Iterator[Source]:
    """Read a snapshot after each interval, from the second on: the first alone has no rates."""
    history, pause, examined_at = History(), Event(), -EXAMINE_EVERY
    history.add(read(conn, schema=schema))
    while True:
        if monotonic() - examined_at >= EXAMINE_EVERY:
            examination = examine(conn, schema)
            examined_at = monotonic()
        pause.wait(ONCE if once else interval)
        snapshot = read(conn, schema=schema)
        history.add(snapshot)
        yield Source(snapshot, history, examination)
        if once:
            return


def show_text(source: Source, status: Status, *, json_: bool, once: bool) -> None:
    """Print a snapshot, as text or JSON."""
    if not json_:
        click.echo("\n".join([*report(source, status, shutil.get_terminal_size().columns), *([] if once else [""])]))
    else:
        print_json(values(source), indent=2 if once else None)


def values(source: Source) -> dict[str, Any]:
    """Return a snapshot with its rates as values of JSON."""
    snapshot, history = source.snapshot, source.history
    queues = {row.queue for row in snapshot.kinds} | {row.queue for row in snapshot.counters}
    examination = source.examination or Examination((), ())
    return snapshot.as_json() | {
        "rates": {
            "all": _rates(history, snapshot, None),
            "queues": [{"queue": queue} | _rates(history, snapshot, queue) for queue in sorted(queues)],
        },
        "doctor": {
            "healthy": examination.is_healthy,
            "findings": [finding.as_dict() for finding in examination.findings],
            "unseen": [one.as_dict() for one in examination.unseen],
        },
    }


def _rates(history: History, snapshot: Snapshot, queue: str | None) -> dict[str, Any]:
    """Return the rates of a queue, or of all."""
    rates = asdict(history.rates(OVER, queue=queue) or Rates(snapshot.at))
    return {name: value for name, value in rates.items() if name != "at"}
