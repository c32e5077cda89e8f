"""The command that enqueues a job, or those of a file."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import Any, Final

import click
from click.core import ParameterSource

from pgq.calls import NO_ARGS
from pgq.cli.completion import complete_kinds, complete_queues
from pgq.cli.lines import enqueue_lines
from pgq.cli.output import as_json, print_json
from pgq.cli.results import TIMEOUT, print_result
from pgq.cli.target import Target, pass_target
from pgq.cli.values import from_json, interval, moment
from pgq.convert import Interval
from pgq.new_job import AfterFailed, OnDuplicate

# What --stdin goes with.
STDIN: Final = frozenset(("--stdin", "--batch", "--from-line", "--json", "--dsn", "--schema"))


def given_in(ctx: click.Context) -> set[str]:
    """Return the names of the parameters of a command that are on the command line."""
    return {
        one.opts[0] if isinstance(one, click.Option) else one.name.upper()
        for one in ctx.command.params
        if one.name is not None and ctx.get_parameter_source(one.name) is ParameterSource.COMMANDLINE
    }


@click.command()
@click.argument("kind", shell_complete=complete_kinds, required=False)
@click.argument("args", type=from_json, default=NO_ARGS)
@click.option("--queue", "queue_", shell_complete=complete_queues, help="Queue of the job.  [default: default]")
@click.option("--at", "ripe_at", type=moment, metavar="TIME", help="Not before this time, in ISO 8601.")
@click.option("--delay", type=interval, metavar="DURATION", help="Not until this much time has passed.")
@click.option("--priority", type=int, help="From 0 (first) to 9.  [default: 5]")
@click.option("--max-retries", type=int, help="Attempts after the first one.  [default: that of the queue, or 10]")
@click.option(
    "--backoff",
    type=interval,
    metavar="DURATION",
    help="Delay before the first retry; it doubles.  [default: that of the queue, or 1m]",
)
@click.option(
    "--backoff-cap",
    type=interval,
    metavar="DURATION",
    help="Longest delay before a retry.  [default: that of the queue, or 1h]",
)
@click.option("--dedup/--no-dedup", default=None, help="Add no duplicate of a waiting job.  [default: dedup]")
@click.option("--dedup-key", help="Find duplicates by this key instead of ARGS.")
@click.option(
    "--on-duplicate",
    type=click.Choice(["keep", "replace", "soonest", "error"]),
    help="What to do with a duplicate.  [default: keep]",
)
@click.option(
    "--dedup-for", type=interval, metavar="DURATION", help="For so long, find duplicates that run or have ended, too."
)
@click.option("--group", "group_key", metavar="KEY", help="Group of the job in its queue.")
@click.option("--after", type=int, multiple=True, metavar="ID", help="Not before this job is over; may be repeated.")
@click.option(
    "--after-failed",
    type=click.Choice(["cancel", "run", "wait"]),
    help="What to do when such a job is dead or cancelled.  [default: cancel]",
)
@click.option("--wait", is_flag=True, help="Wait until the job is done, and print its result.")
@TIMEOUT
@click.option("--stdin", is_flag=True, help="Enqueue the jobs that the lines of standard input name.")
@click.option("--batch", type=click.IntRange(1, 10_000), default=1000, help="With --stdin, lines in a transaction.")
@click.option("--from-line", type=click.IntRange(1), default=1, help="With --stdin, leave out the lines before.")
@as_json
@pass_target
@click.pass_context
def enqueue(
    ctx: click.Context,
    target: Target,
    kind: str | None,
    args: Any,
    queue_: str | None,
    ripe_at: datetime | None,
    delay: Interval | None,
    priority: int | None,
    max_retries: int | None,
    backoff: Interval | None,
    backoff_cap: Interval | None,
    dedup: bool | None,
    dedup_key: str | None,
    on_duplicate: OnDuplicate | None,
    dedup_for: Interval | None,
    group_key: str | None,
    after: tuple[int, ...],
    after_failed: AfterFailed | None,
    wait: bool,
    timeout: timedelta | None,
    stdin: bool,
    batch: int,
    from_line: int,
    json_: bool,
) -> None:
    """
    Enqueue a job of KIND with ARGS, any JSON.

    With --wait the exit code is 1 if the job is dead or cancelled, or has not ended in time.

    A DURATION is a number with a unit, such as 500ms, 30s, 10m, 2h or 7d, or an interval as PostgreSQL reads it, such
    as '10 minutes'.

    With --stdin each line is an object such as {"kind": "mail", "args": {"to": "ann"}}, whose keys are the arguments of
    pgq_enqueue. Each batch of lines is enqueued or not, as a whole. An error names the line, and --from-line goes on.
    """
    given = given_in(ctx)
    if stdin:
        if others := given - STDIN:
            raise click.UsageError(f"--stdin takes no {', '.join(sorted(others))}: the lines say it")
        with target.queue() as queue:
            found = enqueue_lines(queue, sys.stdin.buffer, from_line, batch)
        if json_:
            print_json({"created": found.created, "duplicates": found.duplicates})
        else:
            click.echo(f"{found.created} enqueued, {found.duplicates} were already")
        return
    if kind is None:
        raise click.UsageError("Missing argument 'KIND'.")
    if others := given & {"--batch", "--from-line"}:
        raise click.UsageError(f"{', '.join(sorted(others))}: only with --stdin")
    with target.queue() as queue:
        job = queue.enqueue(
            kind, args, queue=queue_, ripe_at=ripe_at, delay=delay, priority=priority, max_retries=max_retries,
            backoff=backoff, backoff_cap=backoff_cap, dedup=dedup, dedup_key=dedup_key, on_duplicate=on_duplicate,
            group_key=group_key, dedup_for=dedup_for, after=after or None, after_failed=after_failed,
        )  # fmt: skip
        if not json_:
            click.echo(
                f"{job.id}"
                if job.created
                else f"{job.id} (enqueued already)"
                if dedup_for or after
                else f"{job.id} (waiting already)"
            )
        elif not wait:
            print_json({"id": job.id, "created": job.created})
        if wait:
            print_result(queue.wait(job.id, timeout), json_)
