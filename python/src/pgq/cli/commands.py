"""The command ``pgq``, with its subcommands for jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click
from click.core import ParameterSource

from pgq.cli import schema
from pgq.cli.support import (
    Target,
    from_json,
    has_password,
    interval,
    moment,
    pass_target,
    print_json,
    print_table,
    shown,
)
from pgq.cli.worker import worker
from pgq.convert import Interval
from pgq.queue import NO_ARGS, OnDuplicate, Queue
from pgq.version import driver_version

as_json = click.option("--json", "json_", is_flag=True, help="Print JSON.")
STATES = click.Choice(["waiting", "running", "dead", "cancelled", "done"])
JOB_COLUMNS = ("id", "state", "queue", "kind", "priority", "attempt", "ripe_at", "worker")
WORKER_COLUMNS = ("name", "host", "pid", "queues", "registered_at", "present", "running", "kinds", "oldest_claimed_at")
STATS_COLUMNS = ("queue", "kind", "waiting", "ripe", "running", "dead", "cancelled", "done", "oldest_ripe_age")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--dsn",
    envvar="PGQ_DSN",
    default="",
    show_default=False,
    help="Connection string.  [default: PGQ_DSN, or libpq's environment: PGHOST, PGDATABASE, …]",
)
@click.option("--schema", "schema_", envvar="PGQ_SCHEMA", help="Schema of pgq.  [default: PGQ_SCHEMA, or search_path]")
@click.pass_context
def main(ctx: click.Context, dsn: str, schema_: str | None) -> None:
    """A job queue that is just PostgreSQL."""
    if ctx.get_parameter_source("dsn") is ParameterSource.COMMANDLINE and has_password(dsn):
        click.echo("pgq: every user of this machine can read the password in --dsn", err=True)
        click.echo("hint: Keep it in a password file (PGPASSFILE), a service file or PGQ_DSN.", err=True)
    ctx.obj = Target(dsn, schema_)


main.add_command(schema.install)
main.add_command(schema.upgrade)
main.add_command(schema.uninstall)
main.add_command(schema.grant)
main.add_command(schema.revoke)
main.add_command(worker)


@main.command()
@pass_target
def version(target: Target) -> None:
    """Show the versions of this program and of the SQL."""
    click.echo(f"driver {driver_version()}")
    with target.connection() as conn:
        click.echo(f"SQL    {Queue(conn, schema=target.schema).version()}")


@main.command()
@click.argument("kind")
@click.argument("args", type=from_json, default=NO_ARGS)
@click.option("--queue", "queue_", help="Queue of the job.  [default: default]")
@click.option("--at", "ripe_at", type=moment, metavar="TIME", help="Not before this time, in ISO 8601.")
@click.option("--delay", type=interval, metavar="DURATION", help="Not until this much time has passed.")
@click.option("--priority", type=int, help="From 0 (first) to 9.  [default: 5]")
@click.option("--max-retries", type=int, help="Attempts after the first one.  [default: 10]")
@click.option(
    "--backoff", type=interval, metavar="DURATION", help="Delay before the first retry; it doubles.  [default: 1m]"
)
@click.option("--backoff-cap", type=interval, metavar="DURATION", help="Longest delay before a retry.  [default: 1h]")
@click.option("--dedup/--no-dedup", default=None, help="Add no duplicate of a waiting job.  [default: dedup]")
@click.option("--dedup-key", help="Find duplicates by this key instead of ARGS.")
@click.option(
    "--on-duplicate",
    type=click.Choice(["keep", "replace", "soonest", "error"]),
    help="What to do with a duplicate.  [default: keep]",
)
@pass_target
def enqueue(
    target: Target,
    kind: str,
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
) -> None:
    """
    Enqueue a job of KIND with ARGS, any JSON.

    A DURATION is a number with a unit, such as 500ms, 30s, 10m, 2h or 7d, or an interval as PostgreSQL reads it, such
    as '10 minutes'.
    """
    with target.queue() as queue:
        job = queue.enqueue(
            kind, args, queue=queue_, ripe_at=ripe_at, delay=delay, priority=priority, max_retries=max_retries,
            backoff=backoff, backoff_cap=backoff_cap, dedup=dedup, dedup_key=dedup_key, on_duplicate=on_duplicate,
        )  # fmt: skip
        click.echo(f"{job.id}" if job.created else f"{job.id} (waiting already)")


@main.command("list")
@click.option("--state", type=STATES, help="Only jobs in this state.")
@click.option("--queue", help="Only jobs of this queue.")
@click.option("--kind", help="Only jobs of this kind.")
@click.option("--limit", type=click.IntRange(1), default=50, help="Largest number of jobs.")
@as_json
@pass_target
def list_(target: Target, state: str | None, queue: str | None, kind: str | None, limit: int, json_: bool) -> None:
    """List jobs, the newest first."""
    with target.views() as views:
        rows = views.jobs(state, queue, kind, limit)
    if json_:
        print_json(rows)
    else:
        print_table(rows, JOB_COLUMNS)


@main.command()
@click.argument("job_id", metavar="ID", type=int)
@as_json
@pass_target
def show(target: Target, job_id: int, json_: bool) -> None:
    """Show a job with its arguments, result and errors."""
    with target.views() as views:
        job = views.job(job_id)
    if json_:
        print_json(job)
        return
    for name, value in job.items():
        if name != "errors":
            click.echo(f"{name.replace('_', ' '):<12} {shown(value)}")
    for error in job["errors"]:
        click.echo(
            f"\nattempt {error['attempt']} at {error['at']} by {error['worker'] or '-'}\n{error['error'] or '-'}"
        )


@main.command()
@as_json
@pass_target
def stats(target: Target, json_: bool) -> None:
    """Count the jobs by queue and kind."""
    with target.views() as views:
        rows = views.stats()
    if json_:
        print_json(rows)
    else:
        print_table(rows, STATS_COLUMNS)


@main.command()
@as_json
@pass_target
def ps(target: Target, json_: bool) -> None:
    """Show the workers and what they run."""
    with target.views() as views:
        rows = views.workers()
    if json_:
        print_json(rows)
    else:
        print_table(rows, WORKER_COLUMNS)


@main.command()
@click.argument("job_ids", metavar="ID...", type=int, nargs=-1, required=True)
@pass_target
def retry(target: Target, job_ids: tuple[int, ...]) -> None:
    """Put dead or cancelled jobs back to waiting."""
    with target.queue() as queue:
        for job_id in job_ids:
            click.echo(f"{job_id} {queue.retry(job_id)}")


@main.command()
@click.argument("job_ids", metavar="ID...", type=int, nargs=-1, required=True)
@pass_target
def cancel(target: Target, job_ids: tuple[int, ...]) -> None:
    """Cancel waiting or running jobs."""
    with target.queue() as queue:
        for job_id in job_ids:
            queue.cancel(job_id)
            click.echo(f"{job_id} cancelled")


@main.command()
@click.option("--older-than", type=interval, metavar="DURATION", default="30d", help="Only jobs that ended longer ago.")
@click.option("--outcome", type=click.Choice(["dead", "cancelled", "done"]), help="Only jobs that ended in this state.")
@click.option("--queue", "queue_", help="Only jobs of this queue.")
@pass_target
def purge(target: Target, older_than: Interval, outcome: str | None, queue_: str | None) -> None:
    """
    Delete jobs that have ended.

    A DURATION is a number with a unit, such as 7d, or an interval as PostgreSQL reads it, such as '6 months'.
    """
    purged = 0
    with target.queue() as queue:
        # Each call is a transaction and deletes at most 10,000 jobs.
        while some := queue.purge(older_than, outcome, queue_):
            purged += some
    click.echo(f"{purged} purged")
