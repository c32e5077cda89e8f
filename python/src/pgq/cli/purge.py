"""The command that deletes jobs that have ended."""

from __future__ import annotations

from typing import Any, Final

import click
import psycopg

from pgq.cli.change import DRY_RUN
from pgq.cli.completion import complete_kinds, complete_queues
from pgq.cli.output import as_json, show_done
from pgq.cli.progress import Progress, is_terminal
from pgq.cli.target import Target, pass_target
from pgq.cli.values import interval
from pgq.convert import Interval
from pgq.views import Views

# To count the jobs for a bar must not take longer than people wait for a bar.
COUNT_WITHIN: Final = "2s"
ENDED: Final = ("dead", "cancelled", "done")


def count_soon(views: Views, *match: Any, **more: Any) -> int | None:
    """Return the number of the jobs that match; None if it takes long to count them."""
    try:
        with views.conn.transaction():
            views.conn.execute(f"SET LOCAL statement_timeout = '{COUNT_WITHIN}'".encode())
            return views.count(*match, **more)
    except psycopg.errors.QueryCanceled:
        return None


@click.command()
@pass_target
@click.option("--older-than", type=interval, metavar="DURATION", default="30d", help="Only jobs that ended longer ago.")
@click.option(
    "--state",
    "outcome",
    type=click.Choice(["dead", "cancelled", "done"]),
    help="Only jobs that ended in this state.",
)
@click.option("--queue", "queue_", shell_complete=complete_queues, help="Only jobs of this queue.")
@click.option("--kind", shell_complete=complete_kinds, help="Only jobs of this kind.")
@DRY_RUN
@as_json
def purge(
    target: Target,
    older_than: Interval,
    outcome: str | None,
    queue_: str | None,
    kind: str | None,
    dry_run: bool,
    json_: bool,
) -> None:
    """
    Delete jobs that have ended.

    A DURATION is a number with a unit, such as 7d, or an interval as PostgreSQL reads it, such as '6 months'.
    """
    purged = 0
    with target.queue() as queue:
        views, match = Views(queue.conn, schema=target.schema), (outcome or ENDED, queue_, kind)
        if dry_run:
            count = views.count(*match, older_than=older_than)
            show_done(f"{count} would be purged", {"would_be_purged": count}, json_)
            return
        total = count_soon(views, *match, older_than=older_than) if is_terminal() else None
        with Progress("purged", total) as progress:
            # Each call is a transaction and deletes at most 10,000 jobs.
            while some := queue.purge(older_than, outcome, queue_, kind=kind):
                purged += some
                progress.add(some)
    show_done(f"{purged} purged", {"purged": purged}, json_)
