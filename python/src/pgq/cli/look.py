"""The commands that show jobs, workers and numbers."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import click

from pgq.cli.databases import print_rows
from pgq.cli.filters import Filter, filters
from pgq.cli.output import Column, as_json, may_show_args, print_json, shown
from pgq.cli.target import Target, pass_target
from pgq.cli.tree import print_tree
from pgq.views import PRIVATE, Views

STATES: Final = click.Choice(["waiting", "blocked", "running", "dead", "cancelled", "done"])
STATE_COLORS: Final = {"running": "green", "dead": "red", "cancelled": "yellow"}
JOB_COLUMNS: Final = (
    Column("id", 0), Column("state", 1, colors=STATE_COLORS), Column("queue", 4, least=8), Column("kind", 2, least=8),
    Column("priority", 8), Column("attempt", 6), Column("ripe_at", 5), Column("worker", 7, least=8),
    Column("error", 3, least=16),
)  # fmt: skip
WORKER_COLUMNS: Final = (
    Column("name", 0, least=12), Column("host", 7, least=8), Column("pid", 6), Column("queues", 3, least=8),
    Column("registered_at", 8), Column("present", 1, colors={False: "red"}), Column("running", 2), Column("overdue", 4),
    Column("kinds", 4, least=8), Column("oldest_claimed_at", 5), Column("handles", 9, least=8),
)  # fmt: skip
STATS_COLUMNS: Final = (
    Column("queue", 0, least=8), Column("kind", 1, least=8), Column("waiting", 2), Column("ripe", 6),
    Column("blocked", 8), Column("running", 5), Column("dead", 3), Column("cancelled", 8), Column("done", 7),
    Column("oldest_ripe_age", 4), Column("handled", 4, colors={False: "red"}),
)  # fmt: skip
COUNTERS_COLUMNS: Final = (
    Column("queue", 0, least=8), Column("kind", 1, least=8), Column("enqueued", 2), Column("claimed", 6),
    Column("done", 3), Column("failed", 4), Column("dead", 5), Column("cancelled", 7), Column("merged", 9),
    Column("retried", 8), Column("waited_seconds", 10), Column("timed", 12), Column("ran_seconds", 11),
)  # fmt: skip


@click.command("list")
@pass_target
@filters(STATES, "ended, or else were enqueued,")
@click.option("--limit", type=click.IntRange(1), default=50, help="Largest number of jobs.")
@may_show_args
@as_json
def list_(target: Target, match: Filter, limit: int, show_args: bool | None, json_: bool) -> None:
    """
    List jobs, the newest first, each with the first line of its newest error.

    The lines fit the terminal; COLUMNS=200 or --json show more.
    """
    more = False

    def read(views: Views) -> list[dict[str, Any]]:
        nonlocal more
        rows = views.jobs(
            match.state, match.queue, match.kind, limit + 1, older_than=match.older_than, show_args=show_args
        )
        more |= len(rows) > limit
        return rows[:limit]

    print_rows(target, read, JOB_COLUMNS, json_)
    if more:
        click.echo(f"pgq: there are more than these {limit} jobs; --limit shows more", err=True)


@click.command()
@click.argument("job_id", metavar="ID", type=int)
@click.option("--tree", is_flag=True, help="Draw what the job waits for, above it, and what waits for it, below.")
@may_show_args
@as_json
@pass_target
def show(target: Target, job_id: int, tree: bool, show_args: bool | None, json_: bool) -> None:
    """Show a job with its arguments, result, errors, and what it has saved or waits for."""
    with target.views() as views:
        if tree:
            print_tree(views, job_id, json_)
            return
        job = views.job(job_id, show_args=show_args)
    if json_:
        print_json(job)
        return
    hidden = PRIVATE if show_args is False or (job["sensitive"] and show_args is None) else ()
    for name, value in job.items():
        if name in hidden:
            click.echo(f"{name.replace('_', ' '):<12} (hidden)")
        elif name != "errors":
            click.echo(f"{name.replace('_', ' '):<12} {shown(value)}")
    if hidden and show_args is None:
        click.echo("pgq: the queue is sensitive; --show-args shows what is hidden", err=True)
    for error in job["errors"] or ():
        at = error["at"]
        # PostgreSQL knows zones with offsets of more than a day, as Python does not.
        with suppress(ValueError):
            at = shown(datetime.fromisoformat(at))
        click.echo(f"\nattempt {error['attempt']} at {at} by {shown(error['worker'] or None)}")
        for line in (error["error"] or "-").splitlines():
            click.echo(shown(line))


@click.command()
@click.option("--ever", is_flag=True, help="Count what has happened since ever, not the jobs that there are.")
@as_json
@pass_target
def stats(target: Target, ever: bool, json_: bool) -> None:
    """
    Count the jobs by queue and kind.

    ripe: may be claimed now; oldest ripe age: how long the first of these has been ripe; handled: whether a present
    worker of the queue has a handler. It reads all jobs: where millions wait, pgq top is faster.
    """
    if ever:
        print_rows(target, Views.counters, COUNTERS_COLUMNS, json_)
    else:
        print_rows(target, Views.stats, STATS_COLUMNS, json_)


@click.command()
@as_json
@pass_target
def ps(target: Target, json_: bool) -> None:
    """
    Show the workers and what they run.

    present: the session of the worker lives; overdue: jobs whose lease is over and which nobody else has got. A worker
    with --transaction-pooler is shown only while it runs jobs, with - instead.
    """
    print_rows(target, Views.workers, WORKER_COLUMNS, json_)
