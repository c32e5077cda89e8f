"""The commands for queues: what is set, and which are paused."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any, Final

import click

from pgq.cli.completion import complete_queues
from pgq.cli.databases import print_rows
from pgq.cli.output import Column, as_json, print_json, show_done, shown
from pgq.cli.target import Target, pass_target
from pgq.cli.values import interval, moment
from pgq.views import Views

# The keys of pgq_configure, as far as the view shows them under the same names.
SETTINGS: Final = (
    "max_running", "max_per_group", "ordered", "on_dead", "rate", "per", "burst", "rate_per_group", "max_retries",
    "backoff", "backoff_cap", "lease", "keep_done", "keep_dead", "keep_cancelled", "sensitive",
)  # fmt: skip
QUEUE_COLUMNS: Final = (
    Column("queue", 0, least=8), Column("paused", 1, colors={True: "yellow"}), Column("paused_until", 5),
    Column("paused_groups", 7), Column("waiting", 2), Column("ripe", 6), Column("running", 3),
    Column("settings", 4, least=16),
)  # fmt: skip
WHOLE: Final = re.compile(r"[-+]?\d+")
WORDS: Final = {"null": None, "true": True, "false": False}
GROUP: Final = click.option("--group", "group_key", metavar="KEY", help="Only this group of the queue.")


def setting(value: str | tuple[str, Any]) -> tuple[str, Any]:
    """Return the key and the value of text such as max_running=10, rate=null, ordered=true or per=1m."""
    if isinstance(value, tuple):
        return value
    key, equals, text = value.partition("=")
    if not equals:
        raise click.BadParameter(f"{value!r} is not a setting such as max_running=10 or per=1m")
    if text in WORDS:
        return key, WORDS[text]
    if WHOLE.fullmatch(text):
        return key, int(text)
    return key, interval(text)


def word(key: str, value: Any) -> str:
    """Return a setting as it would be given."""
    text = json.dumps(value) if isinstance(value, bool) else str(value)
    return f"{key}={shown(text)}"


def summary(row: dict[str, Any]) -> list[str]:
    """Return what is set of a queue; what is true or false is shown as false where it is not set."""
    return [word(name, row[name]) for name in SETTINGS if row[name] is not None and row[name] is not False]


@click.command()
@click.argument("queue_", metavar="QUEUE", shell_complete=complete_queues)
@click.argument("settings", metavar="[KEY=VALUE...]", type=setting, nargs=-1)
@as_json
@pass_target
def configure(target: Target, queue_: str, settings: tuple[tuple[str, Any], ...], json_: bool) -> None:
    """
    Set what a QUEUE does otherwise than others, and show what is set.

    KEY is one of max_running, max_per_group, ordered, on_dead, rate, per, burst, rate_per_group, max_retries, backoff,
    backoff_cap, lease, keep_done, keep_dead, keep_cancelled and sensitive. KEY=null resets it. An interval is a number
    with a unit, such as 30s or 10m, or an interval as PostgreSQL reads it. An empty QUEUE stands for all queues, of
    which only those that begin with keep can be set.
    """
    with target.queue() as queue:
        set_now = queue.configure(queue_, dict(settings))
    if json_:
        print_json(set_now)
        return
    for name, value in set_now.items():
        click.echo(word(name, value))


@click.command()
@as_json
@pass_target
def queues(target: Target, json_: bool) -> None:
    """
    Show the queues: their settings, whether they are paused, and how many jobs wait and run.

    It reads all jobs that wait: where there are millions, pgq top is faster.
    """
    print_rows(target, Views.queues, QUEUE_COLUMNS, json_, lambda row: row | {"settings": summary(row)})


@click.command()
@click.argument("queue_", metavar="QUEUE", shell_complete=complete_queues)
@click.option("--until", type=moment, metavar="TIME", help="When the pause ends, in ISO 8601.  [default: at resume]")
@GROUP
@as_json
@pass_target
def pause(target: Target, queue_: str, until: datetime | None, group_key: str | None, json_: bool) -> None:
    """Keep the jobs of a QUEUE from being claimed. Running ones go on, and jobs are enqueued as before."""
    with target.queue() as queue:
        queue.pause(queue_, until, group_key=group_key)
    show_done("paused", {"queue": queue_, "group_key": group_key, "until": until}, json_)


@click.command()
@click.argument("queue_", metavar="QUEUE", shell_complete=complete_queues)
@GROUP
@as_json
@pass_target
def resume(target: Target, queue_: str, group_key: str | None, json_: bool) -> None:
    """End the pause of a QUEUE, or with --group that of a group."""
    with target.queue() as queue:
        resumed = queue.resume(queue_, group_key=group_key)
    text = "resumed" if resumed else "was not paused"
    show_done(text, {"queue": queue_, "group_key": group_key, "resumed": resumed}, json_)
