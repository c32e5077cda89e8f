"""The commands for schedules: made by hand, or declared by handlers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, get_args

import click

from pgq import declare as declarations
from pgq.calls import NO_ARGS
from pgq.cli.completion import complete_kinds, complete_queues
from pgq.cli.modules import load
from pgq.cli.output import Column, as_json, may_show_args, print_json, print_table, show_done, shown
from pgq.cli.target import Target, pass_target, takes_database
from pgq.cli.values import from_json, interval
from pgq.schedule import CatchUp, Overlap
from pgq.views import Views

SCHEDULE_COLUMNS: Final = (
    Column("name", 0, least=8), Column("cron", 1, least=9), Column("timezone", 3, least=6), Column("queue", 6, least=8),
    Column("kind", 5, least=8), Column("next_at", 2), Column("last_at", 4), Column("missed", 4), Column("source", 8),
    Column("paused", 7), Column("last_error", 3, least=16),
)  # fmt: skip
SIGNS: Final = {"add": "+", "change": "~", "remove": "-", "leave": "="}


@click.group()
@takes_database
def schedule() -> None:
    """Make, change, pause and run schedules, which enqueue a job each time a cron expression fires."""


@schedule.command("set")
@click.argument("name")
@click.argument("cron")
@click.argument("kind", shell_complete=complete_kinds)
@click.argument("args", type=from_json, default=NO_ARGS)
@click.option("--queue", "queue_", shell_complete=complete_queues, help="Queue of the jobs.  [default: default]")
@click.option("--timezone", help="Time zone of the expression, such as Europe/Berlin.  [default: UTC]")
@click.option("--catch-up", type=click.Choice(get_args(CatchUp)), help="What becomes of late slots.  [default: one]")
@click.option("--overlap", type=click.Choice(get_args(Overlap)), help="While the last job lives.  [default: skip]")
@click.option("--jitter", type=interval, metavar="DURATION", help="Longest random delay of a job.  [default: 0s]")
@click.option("--priority", type=click.IntRange(0, 9), help="0 is claimed first.  [default: 5]")
@click.option("--max-retries", type=click.IntRange(0), help="Attempts after the first.")
@click.option("--backoff", type=interval, metavar="DURATION", help="Delay before the first retry.")
@click.option("--backoff-cap", type=interval, metavar="DURATION", help="Longest delay before a retry.")
@click.option("--group", "group_key", metavar="KEY", help="Group of the jobs.")
@as_json
@pass_target
def set_(
    target: Target, name: str, cron: str, kind: str, args: Any, queue_: str | None, json_: bool, **options: Any
) -> None:
    """
    Make the schedule NAME, or replace it: enqueue a job of KIND with ARGS each time CRON fires.

    CRON has five fields, such as "0 7 * * mon-fri", or is @daily or the like, or "every 90 seconds". ARGS is JSON.
    """
    with target.queue() as queue:
        next_at = queue.schedule(name, cron, kind, args, queue=queue_, **options)
    show_done(shown(next_at), {"name": name, "next_at": next_at}, json_)


@schedule.command()
@click.argument("name")
@as_json
@pass_target
def remove(target: Target, name: str, json_: bool) -> None:
    """Remove the schedule NAME. Its jobs stay."""
    with target.queue() as queue:
        removed = queue.unschedule(name)
    show_done("removed" if removed else "there was none", {"name": name, "removed": removed}, json_)


@schedule.command()
@click.argument("name")
@as_json
@pass_target
def pause(target: Target, name: str, json_: bool) -> None:
    """Let the schedule NAME enqueue nothing until it is resumed."""
    with target.queue() as queue:
        paused = queue.pause_schedule(name)
    show_done("paused" if paused else "was paused already", {"name": name, "paused": paused}, json_)


@schedule.command()
@click.argument("name")
@as_json
@pass_target
def resume(target: Target, name: str, json_: bool) -> None:
    """Let the schedule NAME go on, without what it has missed, and show the next time."""
    with target.queue() as queue:
        next_at = queue.resume_schedule(name)
    show_done(shown(next_at), {"name": name, "next_at": next_at}, json_)


@schedule.command()
@click.argument("name")
@as_json
@pass_target
def run(target: Target, name: str, json_: bool) -> None:
    """Enqueue a job of the schedule NAME now, and show its id."""
    with target.queue() as queue:
        job_id = queue.run_schedule(name)
    show_done(f"{job_id}", {"name": name, "id": job_id}, json_)


def declare(target: Target, modules: Sequence[str], *, dry_run: bool = False) -> list[declarations.Change]:
    """Make the schedules that the handlers of these modules declare; return the differences."""
    source = " ".join(sorted(modules))
    with target.queue() as queue:
        found = declarations.changes(queue, Views(queue.conn, schema=target.schema), source)
        if not dry_run:
            declarations.apply(queue, found, source)
    return found


def line_of(change: declarations.Change) -> str:
    """Return a difference as a line."""
    return f"{SIGNS[change.action]} {change.name}: {change.text}"


@schedule.command()
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Only show the difference.")
@as_json
@pass_target
def sync(target: Target, modules: tuple[str, ...], dry_run: bool, json_: bool) -> None:
    """
    Make the schedules that the handlers of MODULE declare, and show the difference first.

    Schedules that an earlier sync of the same modules has made are changed (~), and removed (-) when no handler
    declares them any more. All others stay as they are (=).
    """
    load(modules)
    changes = declare(target, modules, dry_run=True)
    if json_:
        print_json([{"action": one.action, "name": one.name, "text": one.text} for one in changes])
    else:
        for change in changes:
            click.echo(line_of(change))
    if changes and not dry_run:
        declare(target, modules)


@click.command()
@may_show_args
@as_json
@pass_target
def schedules(target: Target, show_args: bool | None, json_: bool) -> None:
    """Show the schedules: when each fires next, when it has fired last, what it has missed, and its error."""
    with target.views() as views:
        rows = views.schedules(show_args=show_args)
    if json_:
        print_json(rows)
    else:
        print_table(rows, SCHEDULE_COLUMNS)
