"""The command ``pgq``, with its subcommands for jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from time import monotonic
from typing import Any

import click
import psycopg

from pgq.calls import NO_ARGS
from pgq.cli import flow, queues, results, schedules, schema, signals, update
from pgq.cli.databases import in_each, print_rows
from pgq.cli.results import TIMEOUT, print_result
from pgq.cli.support import (
    DSN,
    Column,
    CommandError,
    Target,
    as_json,
    from_json,
    interval,
    moment,
    pass_target,
    print_json,
    shown,
    warn_of_password,
)
from pgq.cli.tree import dependents_first, print_tree
from pgq.cli.worker import worker
from pgq.convert import Interval
from pgq.errors import Error, JobNotFound, WrongState
from pgq.new_job import AfterFailed, OnDuplicate
from pgq.queue import Queue
from pgq.version import driver_version
from pgq.views import Views

STATES = click.Choice(["waiting", "blocked", "running", "dead", "cancelled", "done"])
JOB_COLUMNS = (
    Column("id", 0), Column("state", 1), Column("queue", 4, least=8), Column("kind", 2, least=8), Column("priority", 8),
    Column("attempt", 6), Column("ripe_at", 5), Column("worker", 7, least=8), Column("error", 3, least=16),
)  # fmt: skip
WORKER_COLUMNS = (
    Column("name", 0, least=12), Column("host", 7, least=8), Column("pid", 6), Column("queues", 3, least=8),
    Column("registered_at", 8), Column("present", 1), Column("running", 2), Column("overdue", 4),
    Column("kinds", 4, least=8), Column("oldest_claimed_at", 5), Column("handles", 9, least=8),
)  # fmt: skip
STATS_COLUMNS = (
    Column("queue", 0, least=8), Column("kind", 1, least=8), Column("waiting", 2), Column("ripe", 6),
    Column("blocked", 8), Column("running", 5), Column("dead", 3), Column("cancelled", 8), Column("done", 7),
    Column("oldest_ripe_age", 4), Column("handled", 4),
)  # fmt: skip
COUNTERS_COLUMNS = (
    Column("queue", 0, least=8), Column("kind", 1, least=8), Column("enqueued", 2), Column("claimed", 6),
    Column("done", 3), Column("failed", 4), Column("dead", 5), Column("cancelled", 7), Column("merged", 9),
    Column("retried", 8), Column("waited_seconds", 10), Column("timed", 12), Column("ran_seconds", 11),
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--dsn",
    "dsns",
    type=DSN,
    multiple=True,
    envvar="PGQ_DSN",
    help="Connection string; may be repeated for worker, stats, ps, queues, list, retry and cancel.  [default: those "
    "of PGQ_DSN, one on each line, or libpq's environment: PGHOST, PGDATABASE, …]",
)
@click.option("--schema", "schema_", envvar="PGQ_SCHEMA", help="Schema of pgq.  [default: PGQ_SCHEMA, or search_path]")
@click.version_option(package_name="pgq-jobs", prog_name="pgq", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, dsns: tuple[str, ...], schema_: str | None) -> None:
    """
    A job queue that is just PostgreSQL.

    --dsn and --schema may also follow the command.
    """
    warn_of_password(ctx, "dsns", dsns)
    ctx.obj = Target(dsns or ("",), schema_)


main.add_command(schema.install)
main.add_command(schema.upgrade)
main.add_command(schema.uninstall)
main.add_command(schema.grant)
main.add_command(schema.revoke)
main.add_command(worker)
main.add_command(results.result)
main.add_command(update.update)
main.add_command(signals.signal)
main.add_command(flow.batches)
main.add_command(flow.enqueue_batch)
main.add_command(queues.configure)
main.add_command(queues.queues)
main.add_command(queues.pause)
main.add_command(queues.resume)
main.add_command(schedules.schedule)
main.add_command(schedules.schedules)


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
@as_json
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
    dedup_for: Interval | None,
    group_key: str | None,
    after: tuple[int, ...],
    after_failed: AfterFailed | None,
    wait: bool,
    timeout: timedelta | None,
    json_: bool,
) -> None:
    """
    Enqueue a job of KIND with ARGS, any JSON.

    With --wait the exit code is 1 if the job is dead or cancelled, or has not ended in time.

    A DURATION is a number with a unit, such as 500ms, 30s, 10m, 2h or 7d, or an interval as PostgreSQL reads it, such
    as '10 minutes'.
    """
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


@dataclass(frozen=True)
class Filter:
    """The jobs that a command is about: those that match all that is not None."""

    state: str | None
    queue: str | None
    kind: str | None
    older_than: Interval | None

    def __bool__(self) -> bool:
        return self != Filter(None, None, None, None)


def filters(states: click.Choice[str], age: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator for the options of a Filter, which the command gets as ``match``."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def filtered(
            *arguments: Any,
            state: str | None,
            queue_: str | None,
            kind: str | None,
            older_than: Interval | None,
            **options: Any,
        ) -> Any:
            return command(*arguments, match=Filter(state, queue_, kind, older_than), **options)

        for option in (
            click.option("--older-than", type=interval, metavar="DURATION", help=f"Only jobs that {age} longer ago."),
            click.option("--kind", help="Only jobs of this kind."),
            click.option("--queue", "queue_", help="Only jobs of this queue."),
            click.option("--state", type=states, help="Only jobs in this state."),
        ):
            filtered = option(filtered)
        return filtered

    return decorate


@main.command("list")
@pass_target
@filters(STATES, "ended, or else were enqueued,")
@click.option("--limit", type=click.IntRange(1), default=50, help="Largest number of jobs.")
@as_json
def list_(target: Target, match: Filter, limit: int, json_: bool) -> None:
    """
    List jobs, the newest first, each with the first line of its newest error.

    The lines fit the terminal; COLUMNS=200 or --json show more.
    """
    more = False

    def read(views: Views) -> list[dict[str, Any]]:
        nonlocal more
        rows = views.jobs(match.state, match.queue, match.kind, limit + 1, older_than=match.older_than)
        more |= len(rows) > limit
        return rows[:limit]

    print_rows(target, read, JOB_COLUMNS, json_)
    if more:
        click.echo(f"pgq: there are more than these {limit} jobs; --limit shows more", err=True)


@main.command()
@click.argument("job_id", metavar="ID", type=int)
@click.option("--tree", is_flag=True, help="Draw what the job waits for, above it, and what waits for it, below.")
@as_json
@pass_target
def show(target: Target, job_id: int, tree: bool, json_: bool) -> None:
    """Show a job with its arguments, result, errors, and what it has saved or waits for."""
    with target.views() as views:
        if tree:
            print_tree(views, job_id, json_)
            return
        job = views.job(job_id)
    if json_:
        print_json(job)
        return
    for name, value in job.items():
        if name != "errors":
            click.echo(f"{name.replace('_', ' '):<12} {shown(value)}")
    for error in job["errors"]:
        click.echo(f"\nattempt {error['attempt']} at {error['at']} by {shown(error['worker'] or None)}")
        for line in (error["error"] or "-").splitlines():
            click.echo(shown(line))


@main.command()
@click.option("--ever", is_flag=True, help="Count what has happened since ever, not the jobs that there are.")
@as_json
@pass_target
def stats(target: Target, ever: bool, json_: bool) -> None:
    """Count the jobs by queue and kind."""
    if ever:
        print_rows(target, Views.counters, COUNTERS_COLUMNS, json_)
    else:
        print_rows(target, Views.stats, STATS_COLUMNS, json_)


@main.command()
@as_json
@pass_target
def ps(target: Target, json_: bool) -> None:
    """Show the workers and what they run."""
    print_rows(target, Views.workers, WORKER_COLUMNS, json_)


JOB_IDS = click.argument("job_ids", metavar="[ID...]", type=int, nargs=-1)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


def change_each(
    target: Target,
    job_ids: tuple[int, ...],
    match: Filter,
    states: tuple[str, ...],
    dry_run: bool,
    action: str,
    change: Callable[[Queue, int], str],
    tree: bool = False,
) -> None:
    """
    Change the jobs with these ids, or else those that match and are in one of the states, the oldest first.

    Each is a transaction: one for all would keep workers waiting. A job that cannot be changed does not stop the
    others. It makes the exit code 1 only if its id was given; if it matched, it has moved on meanwhile.

    With ``tree`` the jobs that wait for these are changed, too, each before those that it waits for. Several databases
    are changed one after the other; ids belong to one database.
    """
    if bool(job_ids) == bool(match):
        raise click.UsageError("give either IDs, or at least one of --state, --queue, --kind and --older-than")
    if job_ids and len(target.dsns) > 1:
        raise click.UsageError(
            "an ID belongs to one database, and there are several: say which by one --dsn after the command"
        )

    def change_in(name: str | None, one: Target) -> None:
        change_each_of(one, job_ids, match, states, dry_run, action, change, tree, name)

    if code := in_each(target, change_in):
        click.get_current_context().exit(code)


def change_each_of(
    target: Target,
    job_ids: tuple[int, ...],
    match: Filter,
    states: tuple[str, ...],
    dry_run: bool,
    action: str,
    change: Callable[[Queue, int], str],
    tree: bool,
    name: str | None,
) -> None:
    """Change the jobs of one database; its lines begin with the name, where there are several."""
    label = "" if name is None else f"{name}: "
    changed, requested, refused, hints = 0, 0, 0, set()
    with target.queue() as queue:
        views = Views(queue.conn, schema=target.schema)
        found = job_ids or views.ids(match.state or states, match.queue, match.kind, older_than=match.older_than)
        order = dependents_first(views, found) if tree else found
        if tree:
            waiting = len(order) - len(set(found))
            click.echo(f"pgq: {label}{waiting} other jobs wait for what is named, directly or not", err=True)
        for job_id in order:
            try:
                if dry_run and job_id in job_ids:
                    check_state(views.job(job_id), states, action)
                what = f"would be {action}" if dry_run else change(queue, job_id)
                click.echo(f"{label}{job_id} {what}")
                changed += what != "requested"
                requested += what == "requested"
            except (JobNotFound, WrongState, psycopg.errors.LockNotAvailable) as error:
                # A job that waited for one of these and has moved on is no mistake either.
                refused += job_id in job_ids or isinstance(error, psycopg.errors.LockNotAvailable)
                message, hint = refusal(error)
                # One hint for all jobs with the same mistake.
                CommandError(label + message, None if hint in hints else hint).show()
                hints.add(hint)
    if not job_ids:
        asked = f", {requested} requested" if requested else ""
        click.echo(f"pgq: {label}{changed} jobs {'would be ' if dry_run else ''}{action}{asked}", err=True)
    elif refused:
        click.get_current_context().exit(1)


def refusal(error: Error | psycopg.Error) -> tuple[str, str | None]:
    """Return the message and the hint of an error."""
    if isinstance(error, Error):
        return str(error), error.hint
    return error.diag.message_primary or str(error), error.diag.message_hint


def check_state(job: dict[str, Any], states: tuple[str, ...], action: str) -> None:
    """Raise WrongState for a job whose state does not allow the action."""
    if job["state"] not in states:
        raise WrongState(
            f"job {job['id']} is {job['state']} and cannot be {action}",
            hint=f"Name jobs that are {' or '.join(states)}.",
        )


@main.command()
@pass_target
@JOB_IDS
@filters(click.Choice(["dead", "cancelled"]), "ended")
@DRY_RUN
def retry(target: Target, job_ids: tuple[int, ...], match: Filter, dry_run: bool) -> None:
    """
    Put dead or cancelled jobs back to waiting.

    Name them by ID, or all that match the options; without --state these are dead ones.
    """
    states = ("dead", "cancelled") if job_ids else (match.state or "dead",)
    change_each(target, job_ids, match, states, dry_run, "retried", lambda queue, job_id: queue.retry(job_id))


@main.command()
@pass_target
@JOB_IDS
@filters(click.Choice(["waiting", "blocked", "running"]), "were enqueued")
@click.option("--tree", is_flag=True, help="Cancel all that waits for these jobs, too, directly or not.")
@DRY_RUN
def cancel(target: Target, job_ids: tuple[int, ...], match: Filter, tree: bool, dry_run: bool) -> None:
    """
    Cancel waiting, blocked or running jobs.

    Name them by ID, or all that match the options. A waiting or blocked job is cancelled at once, and with it what is
    to run after it. The worker of a running job is asked to give it up, and does so within some seconds, unless the job
    is done before.

    With --tree also what waits for them is cancelled at once, whatever it was to do after a job that has failed, and
    before it could be unblocked. --dry-run lists all of them.
    """
    states = ("waiting", "blocked", "running")
    change_each(target, job_ids, match, states, dry_run, "cancelled", lambda queue, job_id: queue.cancel(job_id), tree)


# Seconds between two lines about the progress of a purge.
PROGRESS_EVERY = 2.0


@main.command()
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
