"""The command that changes a waiting job."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from pgq.calls import UNCHANGED
from pgq.cli.output import as_json, print_json, shown
from pgq.cli.target import Target, pass_target
from pgq.cli.values import from_json, moment


@click.command()
@click.argument("job_id", metavar="ID", type=int)
@click.option("--args", type=from_json, default=UNCHANGED, show_default=False, help="New arguments, any JSON.")
@click.option("--at", "ripe_at", type=moment, metavar="TIME", help="Not before this time, in ISO 8601.")
@click.option("--priority", type=int, help="From 0 (first) to 9.")
@click.option("--group", "group_key", metavar="KEY", help="Group of the job; an empty KEY: none.")
@as_json
@pass_target
def update(
    target: Target,
    job_id: int,
    args: Any,
    ripe_at: datetime | None,
    priority: int | None,
    group_key: str | None,
    json_: bool,
) -> None:
    """
    Change the waiting job ID, and print from when on it is ripe.

    What is not given stays as it is. A job that gets another time, priority or group is ripe now at the earliest.
    """
    with target.queue() as queue:
        ripe_at = queue.update(job_id, args=args, ripe_at=ripe_at, priority=priority, group_key=group_key)
    if json_:
        print_json({"id": job_id, "ripe_at": ripe_at})
    else:
        click.echo(f"{job_id} {shown(ripe_at)}")
