"""The command for the result of a job, and what it shares with a command that waits for one."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import click

from pgq.cli.output import as_json, print_json, shown
from pgq.cli.target import Target, pass_target
from pgq.cli.values import duration
from pgq.job import Result

TIMEOUT: Final = click.option(
    "--timeout", type=duration, metavar="DURATION", help="With --wait, for this long at most.  [default: no limit]"
)


def print_result(result: Result, json_: bool) -> None:
    """Print what has become of a job."""
    if json_:
        names = ("id", "state", "value", "error", "ended_at")
        print_json({"result" if name == "value" else name: getattr(result, name) for name in names})
        return
    click.echo(result.state)
    if result.payload is not None:
        click.echo(shown(result.payload))
    if result.error is not None:
        for line in result.error.splitlines():
            click.echo(shown(line), err=True)


@click.command()
@click.argument("job_id", metavar="ID", type=int)
@click.option("--wait", is_flag=True, help="Wait until the job is done.")
@TIMEOUT
@as_json
@pass_target
def result(target: Target, job_id: int, wait: bool, timeout: timedelta | None, json_: bool) -> None:
    """
    Show what has become of the job ID: its state, its result, and its newest error.

    The state is waiting, running, done, dead, cancelled, or gone, which is that of a job that has left nothing. With
    --wait the exit code is 1 for a job that is dead or cancelled, or has not ended in time.
    """
    with target.queue() as queue:
        print_result(queue.wait(job_id, timeout) if wait else queue.result(job_id), json_)
