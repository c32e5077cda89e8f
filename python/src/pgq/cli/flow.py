"""The commands for jobs that belong together."""

from __future__ import annotations

from typing import Any, Final, TextIO

import click

from pgq.cli.completion import complete_kinds, complete_queues
from pgq.cli.output import Column, as_json, print_json, print_table
from pgq.cli.target import Target, pass_target
from pgq.cli.values import from_json, interval
from pgq.convert import Interval
from pgq.new_job import NewJob

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


def jobs_of(file: TextIO) -> list[NewJob]:
    """Return the jobs of a JSON array in a file. The server checks the keys of each."""
    try:
        jobs = from_json(file.read())
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"not UTF-8: {error}", param_hint="'JOBS'") from error
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint="'JOBS'") from error
    if not isinstance(jobs, list) or not all(isinstance(job, dict) for job in jobs):
        raise click.BadParameter("not an array of objects", param_hint="'JOBS'")
    return jobs


@click.command()
@click.argument("kind", shell_complete=complete_kinds)
@click.argument("args", type=from_json)
@click.argument("jobs", type=click.File(encoding="utf-8"))
@click.option(
    "--queue", "queue_", shell_complete=complete_queues, help="Queue of the job that comes last.  [default: default]"
)
@click.option("--priority", type=int, help="Its priority, from 0 (first) to 9.  [default: 5]")
@click.option("--max-retries", type=int, help="Its attempts after the first.  [default: that of the queue, or 10]")
@click.option(
    "--backoff",
    type=interval,
    metavar="DURATION",
    help="Delay before its first retry.  [default: as max-retries, or 1m]",
)
@click.option(
    "--backoff-cap",
    type=interval,
    metavar="DURATION",
    help="Longest delay before a retry of it.  [default: as max-retries, or 1h]",
)
@click.option("--group", "group_key", metavar="KEY", help="Its group.")
@as_json
@pass_target
def enqueue_batch(
    target: Target,
    kind: str,
    args: Any,
    jobs: TextIO,
    queue_: str | None,
    priority: int | None,
    max_retries: int | None,
    backoff: Interval | None,
    backoff_cap: Interval | None,
    group_key: str | None,
    json_: bool,
) -> None:
    """
    Enqueue a batch: JOBS, and a job of KIND with ARGS that comes after all of them, whatever has become of each.

    JOBS is a file, or - for standard input, with a JSON array of objects such as {"kind": "import", "args": 1}; their
    keys are the arguments of pgq_enqueue. It prints the ID of the job that comes last, which is that of the batch.
    """
    members = jobs_of(jobs)
    with target.queue() as queue:
        batch = queue.enqueue_batch(
            kind, args, members, queue=queue_, priority=priority, max_retries=max_retries, backoff=backoff,
            backoff_cap=backoff_cap, group_key=group_key,
        )  # fmt: skip
    if json_:
        print_json({"id": batch.id, "ids": batch.ids})
    else:
        click.echo(f"{batch.id}")
