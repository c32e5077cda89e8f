"""The command ``pgq``, and its subcommands."""

from __future__ import annotations

import sys
from io import TextIOWrapper

import click

from pgq.cli import (
    change,
    doctor,
    enqueue,
    flow,
    look,
    metrics,
    purge,
    queues,
    results,
    schedules,
    schema,
    signals,
    update,
)
from pgq.cli.output import as_json, show_done
from pgq.cli.target import DSN, Target, pass_target, warn_of_password
from pgq.cli.top.command import top
from pgq.cli.web import web
from pgq.cli.worker import worker
from pgq.queue import Queue
from pgq.version import driver_version


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--dsn",
    "dsns",
    type=DSN,
    multiple=True,
    envvar="PGQ_DSN",
    help="Connection string; may be repeated for worker, web, doctor, metrics, stats, ps, queues, list, retry and "
    "cancel.  [default: those of PGQ_DSN, one on each line, or libpq's environment: PGHOST, PGDATABASE, …]",
)
@click.option("--schema", "schema_", envvar="PGQ_SCHEMA", help="Schema of pgq.  [default: PGQ_SCHEMA, or search_path]")
@click.version_option(package_name="pgq-jobs", prog_name="pgq", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, dsns: tuple[str, ...], schema_: str | None) -> None:
    """
    A job queue that is just PostgreSQL.

    --dsn and --schema may also follow the command.
    """
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # What the encoding of the terminal lacks becomes a question mark, in as many columns.
        sys.stdout.reconfigure(errors="replace")
    warn_of_password(ctx, "dsns", dsns)
    ctx.obj = Target(dsns or ("",), schema_)


@main.command()
@as_json
@pass_target
def version(target: Target, json_: bool) -> None:
    """Show the versions of this program and of the SQL."""
    if not json_:
        click.echo(f"driver {driver_version()}")
    with target.connection() as conn:
        sql = Queue(conn, schema=target.schema).version()
    show_done(f"SQL    {sql}", {"driver": driver_version(), "sql": sql}, json_)


for command in (
    schema.install,
    schema.upgrade,
    schema.uninstall,
    schema.grant,
    schema.revoke,
    enqueue.enqueue,
    look.list_,
    look.show,
    look.stats,
    look.ps,
    top,
    change.retry,
    change.cancel,
    purge.purge,
    worker,
    metrics.metrics,
    results.result,
    update.update,
    signals.signal,
    flow.batches,
    flow.enqueue_batch,
    queues.configure,
    queues.queues,
    queues.pause,
    queues.resume,
    schedules.schedule,
    schedules.schedules,
    doctor.doctor,
    web,
):
    main.add_command(command)
