"""The command that sends a signal to a job."""

from __future__ import annotations

from typing import Any

import click

from pgq.cli.output import as_json, print_json
from pgq.cli.target import Target, pass_target
from pgq.cli.values import from_json


@click.command()
@click.argument("job_id", metavar="ID", type=int)
@click.argument("name")
@click.argument("payload", type=from_json, default=None, required=False)
@as_json
@pass_target
def signal(target: Target, job_id: int, name: str, payload: Any, json_: bool) -> None:
    """
    Send the signal NAME to the job ID, with PAYLOAD, any JSON.

    A job gets one signal of each name: if it has got this one already, the command says so, and changes nothing.
    """
    with target.queue() as queue:
        is_first = queue.signal(job_id, name, payload)
    if json_:
        print_json({"id": job_id, "name": name, "first": is_first})
    else:
        click.echo(f"{job_id} {name}" + ("" if is_first else " (it had this signal already)"))
