"""The commands."""

from __future__ import annotations

from datetime import datetime, timedelta
from importlib.metadata import version as distribution_version
from typing import Any

import click
from click.core import ParameterSource

from pgq.cli import schema as schema_commands
from pgq.cli.support import Target, duration, from_json, has_password, moment, print_json, print_table, shown
from pgq.cli.worker import worker
from pgq.queue import NO_ARGS, OnDuplicate, Queue

target = click.make_pass_decorator(Target)
as_json = click.option("--json", "json_", is_flag=True, help="Print JSON.")
STATES = click.Choice(["waiting", "running", "dead", "cancelled", "done"])
LIST = ("id", "state", "queue", "kind", "priority", "attempt", "ripe_at", "worker")
WORKERS = ("name", "host", "pid", "queues", "registered_at", "present", "running", "kinds", "oldest_claimed_at")
STATS = ("queue", "kind", "waiting", "ripe", "running", "dead", "cancelled", "done", "oldest_ripe_age")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--dsn",
    envvar="PGQ_DSN",
    default="",
    show_default=False,
    help="Connection string; by default PGQ_DSN, else libpq's environment (PGHOST, PGDATABASE, …).",
)
@click.option("--schema", envvar="PGQ_SCHEMA", help="Schema that pgq lives in; by default the search path finds it.")
@click.pass_context
def main(ctx: click.Context, dsn: str, schema: str | None) -> None:
    """A job queue that is just PostgreSQL."""
    if ctx.get_parameter_source("dsn") is ParameterSource.COMMANDLINE and has_password(dsn):
        click.echo("pgq: everybody on this machine can read the password in --dsn", err=True)
        click.echo("hint: Keep it in a password file (PGPASSFILE), a service file, or PGQ_DSN.", err=True)
    ctx.obj = Target(dsn, schema)


for name in ("install", "upgrade", "uninstall", "grant", "revoke"):
    main.add_command(getattr(schema_commands, name))


@main.command()
@target
def version(at: Target) -> None:
    """Show the version of this program and of the SQL in the database."""
    click.echo(f"driver {distribution_version('pgq-jobs')}")
    with at.connection() as conn:
        click.echo(f"SQL    {Queue(conn, schema=at.schema).version()}")


@main.command()
@click.argument("kind")
@click.argument("args", type=from_json, default=NO_ARGS)
@click.option("--queue", "queue_", help="Queue.  [default: default]")
@click.option("--at", "ripe_at", type=moment, metavar="TIME", help="Not before this time, in ISO 8601.")
@click.option("--delay", type=duration, metavar="DURATION", help="Not before this long from now.")
@click.option("--priority", type=int, help="From 0 (first) to 9.  [default: 5]")
@click.option("--max-retries", type=int, help="Attempts after the first one.  [default: 10]")
@click.option(
    "--backoff", type=duration, metavar="DURATION", help="Delay before the first retry; it doubles.  [default: 1m]"
)
@click.option("--backoff-cap", type=duration, metavar="DURATION", help="Longest such delay.  [default: 1h]")
@click.option("--dedup/--no-dedup", default=None, help="Refuse a twin of a waiting job.  [default: dedup]")
@click.option("--dedup-key", help="What makes twins instead of ARGS.")
@click.option("--on-duplicate", type=click.Choice(["keep", "replace", "soonest", "error"]), help="[default: keep]")
@target
def enqueue(
    at: Target,
    kind: str,
    args: Any,
    queue_: str | None,
    ripe_at: datetime | None,
    delay: timedelta | None,
    priority: int | None,
    max_retries: int | None,
    backoff: timedelta | None,
    backoff_cap: timedelta | None,
    dedup: bool | None,
    dedup_key: str | None,
    on_duplicate: OnDuplicate | None,
) -> None:
    """Enqueue a job of KIND with ARGS, any JSON."""
    with at.queue() as queue:
        answer = queue.enqueue(
            kind, args, queue=queue_, ripe_at=ripe_at, delay=delay, priority=priority, max_retries=max_retries,
            backoff=backoff, backoff_cap=backoff_cap, dedup=dedup, dedup_key=dedup_key, on_duplicate=on_duplicate,
        )  # fmt: skip
        click.echo(f"{answer.id}" if answer.created else f"{answer.id} (waiting already)")


main.add_command(worker)


@main.command("list")
@click.option("--state", type=STATES, help="Only jobs in this state.")
@click.option("--queue", help="Only jobs of this queue.")
@click.option("--kind", help="Only jobs of this kind.")
@click.option("--limit", type=click.IntRange(1), default=50, help="Only so many, the newest.")
@as_json
@target
def list_(at: Target, state: str | None, queue: str | None, kind: str | None, limit: int, json_: bool) -> None:
    """List jobs, the newest first."""
    with at.views() as views:
        rows = views.jobs(state, queue, kind, limit)
    if json_:
        print_json(rows)
    else:
        print_table(rows, LIST)


@main.command()
@click.argument("job_id", metavar="ID", type=int)
@as_json
@target
def show(at: Target, job_id: int, json_: bool) -> None:
    """Show a job with its arguments and errors."""
    with at.views() as views:
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
@target
def stats(at: Target, json_: bool) -> None:
    """Count the jobs by queue and kind."""
    with at.views() as views:
        rows = views.stats()
    if json_:
        print_json(rows)
    else:
        print_table(rows, STATS)


@main.command()
@as_json
@target
def workers(at: Target, json_: bool) -> None:
    """Show who works, where, and on what."""
    with at.views() as views:
        rows = views.workers()
    if json_:
        print_json(rows)
    else:
        print_table(rows, WORKERS)


@main.command()
@click.argument("job_ids", metavar="ID...", type=int, nargs=-1, required=True)
@target
def retry(at: Target, job_ids: tuple[int, ...]) -> None:
    """Bring dead or cancelled jobs back."""
    with at.queue() as queue:
        for job_id in job_ids:
            click.echo(f"{job_id} {queue.retry(job_id)}")


@main.command()
@click.argument("job_ids", metavar="ID...", type=int, nargs=-1, required=True)
@target
def cancel(at: Target, job_ids: tuple[int, ...]) -> None:
    """End waiting or running jobs."""
    with at.queue() as queue:
        for job_id in job_ids:
            queue.cancel(job_id)
            click.echo(f"{job_id} cancelled")


@main.command()
@click.option("--older-than", type=duration, metavar="DURATION", default="30d", help="Only jobs that ended longer ago.")
@click.option("--outcome", type=click.Choice(["dead", "cancelled", "done"]), help="Only jobs that ended like this.")
@click.option("--queue", "queue_", help="Only jobs of this queue.")
@target
def purge(at: Target, older_than: timedelta, outcome: str | None, queue_: str | None) -> None:
    """Delete jobs that ended a while ago."""
    purged = 0
    with at.queue() as queue:
        # One commit for each ten thousand: no long transaction.
        while some := queue.purge(older_than, outcome, queue_):
            purged += some
    click.echo(f"{purged} purged")
