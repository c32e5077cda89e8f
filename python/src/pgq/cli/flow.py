"""The commands for jobs that belong together."""

from __future__ import annotations

from typing import Final

import click

from pgq.cli.support import Column, Target, as_json, pass_target, print_json, print_table

BATCH_COLUMNS: Final = (
    Column("id", 0), Column("queue", 3, least=8), Column("jobs", 1), Column("ended", 1), Column("failed", 2),
    Column("enqueued_at", 4),
)  # fmt: skip


@click.command()
@click.option("--limit", type=click.IntRange(1), default=50, help="Largest number of batches.")
@as_json
@pass_target
def batches(target: Target, limit: int, json_: bool) -> None:
    """
    Show the newest batches: how many jobs each has, how many have ended, and how many of these have failed.

    The ID is that of the job that comes last.
    """
    with target.views() as views:
        rows = views.batches(limit)
    if json_:
        print_json(rows)
    else:
        print_table(rows, BATCH_COLUMNS)
