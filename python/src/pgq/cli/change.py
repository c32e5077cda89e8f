"""The commands that retry and cancel jobs, one by one or all that match."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import psycopg

from pgq.cli.databases import in_each
from pgq.cli.errors import CommandError
from pgq.cli.filters import Filter, filters
from pgq.cli.target import Target, pass_target
from pgq.cli.tree import dependents_first
from pgq.errors import Error, JobNotFound, WrongState
from pgq.queue import Queue
from pgq.views import Views

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


@click.command()
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


@click.command()
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
