"""The command that deletes jobs that have ended."""

from __future__ import annotations

from time import monotonic

import click

from pgq.cli.change import DRY_RUN
from pgq.cli.target import Target, pass_target
from pgq.cli.values import interval
from pgq.convert import Interval
from pgq.views import Views

# Seconds between two lines about the progress of a purge.
PROGRESS_EVERY = 2.0


@click.command()
@pass_target
@click.option("--older-than", type=interval, metavar="DURATION", default="30d", help="Only jobs that ended longer ago.")
@click.option(
    "--state",
    "outcome",
    type=click.Choice(["dead", "cancelled", "done"]),
    help="Only jobs that ended in this state.",
)
@click.option("--queue", "queue_", help="Only jobs of this queue.")
@click.option("--kind", help="Only jobs of this kind.")
@DRY_RUN
def purge(
    target: Target, older_than: Interval, outcome: str | None, queue_: str | None, kind: str | None, dry_run: bool
) -> None:
    """
    Delete jobs that have ended.

    A DURATION is a number with a unit, such as 7d, or an interval as PostgreSQL reads it, such as '6 months'.
    """
    purged = 0
    with target.queue() as queue:
        if dry_run:
            states = outcome or ("dead", "cancelled", "done")
            count = Views(queue.conn, schema=target.schema).count(states, queue_, kind, older_than=older_than)
            click.echo(f"{count} would be purged")
            return
        told_at = monotonic()
        # Each call is a transaction and deletes at most 10,000 jobs.
        while some := queue.purge(older_than, outcome, queue_, kind=kind):
            purged += some
            if monotonic() - told_at > PROGRESS_EVERY:
                told_at = monotonic()
                click.echo(f"{purged} purged so far", err=True)
    click.echo(f"{purged} purged")
