"""The commands that retry and cancel jobs, one by one or all that match."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import psycopg

from pgq.cli.databases import in_each
from pgq.cli.errors import CommandError
from pgq.cli.filters import Filter, filters
from pgq.cli.output import as_json, print_json
from pgq.cli.progress import Progress
from pgq.cli.target import Target, pass_target
from pgq.cli.tree import dependents_first
from pgq.errors import Error, JobNotFound, WrongState
from pgq.queue import Queue
from pgq.views import Views

JOB_IDS = click.argument("job_ids", metavar="[ID...]", type=int, nargs=-1)
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


@dataclass(frozen=True)
class Operation:
    """What a command does with each job: ``change`` it if it is in one of the states; ``action`` says so."""

    states: tuple[str, ...]
    action: str
    change: Callable[[Queue, int], str]
    dry_run: bool
    json_: bool
    tree: bool = False


def change_each(target: Target, job_ids: tuple[int, ...], match: Filter, operation: Operation) -> None:
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
    rows: list[dict[str, Any]] = []
    refused = 0

    def change_in(name: str | None, one: Target) -> None:
        nonlocal refused
        refused += change_each_of(one, job_ids, match, operation, name, rows)

    code = in_each(target, change_in)
    if operation.json_:
        print_json(rows)
    if code or refused:
        click.get_current_context().exit(code or 1)


def change_each_of(
    target: Target,
    job_ids: tuple[int, ...],
    match: Filter,
    operation: Operation,
    name: str | None,
    rows: list[dict[str, Any]],
) -> int:
    """
    Change the jobs of one database; return how many of the ids that were given are refused.

    For JSON, a row is added for each. Lines begin with the name of the database, where there are several.
    """
    label, database = ("", {}) if name is None else (f"{name}: ", {"database": name})
    changed, requested, refused, hints = 0, 0, 0, set()
    with target.queue() as queue:
        views = Views(queue.conn, schema=target.schema)
        found = job_ids or views.ids(
            match.state or operation.states, match.queue, match.kind, older_than=match.older_than
        )
        order = dependents_first(views, found) if operation.tree else found
        if operation.tree:
            waiting = len(order) - len(set(found))
            click.echo(f"pgq: {label}{waiting} other jobs wait for what is named, directly or not", err=True)
        # Lines on a terminal show how far it is.
        has_lines = sys.stdout.isatty() and not operation.json_
        with Progress(operation.action, None if has_lines else len(order), lines=False) as progress:
            for job_id in order:
                row = {**database, "id": job_id, "outcome": None, "error": None, "hint": None}
                try:
                    row["outcome"] = what = changed_by(operation, queue, views, job_id, job_id in job_ids)
                    if not operation.json_:
                        click.echo(f"{label}{job_id} {what}")
                    changed += what != "requested"
                    requested += what == "requested"
                except (JobNotFound, WrongState, psycopg.errors.LockNotAvailable) as error:
                    # A job that waited for one of these and has moved on is no mistake either.
                    refused += job_id in job_ids or isinstance(error, psycopg.errors.LockNotAvailable)
                    message, hint = refusal(error)
                    row |= {"error": message, "hint": hint}
                    # One hint for all jobs with the same mistake.
                    progress.leave_line()
                    CommandError(label + message, None if hint in hints else hint).show()
                    hints.add(hint)
                if operation.json_:
                    rows.append(row)
                progress.add(1)
    if not job_ids:
        asked = f", {requested} requested" if requested else ""
        would = "would be " if operation.dry_run else ""
        click.echo(f"pgq: {label}{changed} jobs {would}{operation.action}{asked}", err=True)
    return refused if job_ids else 0


def changed_by(operation: Operation, queue: Queue, views: Views, job_id: int, is_named: bool) -> str:
    """Change a job, or only say so; return what has become of it."""
    if not operation.dry_run:
        return operation.change(queue, job_id)
    if is_named:
        check_state(views.job(job_id), operation.states, operation.action)
    return f"would be {operation.action}"


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
@as_json
def retry(target: Target, job_ids: tuple[int, ...], match: Filter, dry_run: bool, json_: bool) -> None:
    """
    Put dead or cancelled jobs back to waiting.

    Name them by ID, or all that match the options; without --state these are dead ones.
    """
    states = ("dead", "cancelled") if job_ids else (match.state or "dead",)
    operation = Operation(states, "retried", lambda queue, job_id: queue.retry(job_id), dry_run, json_)
    change_each(target, job_ids, match, operation)


@click.command()
@pass_target
@JOB_IDS
@filters(click.Choice(["waiting", "blocked", "running"]), "were enqueued")
@click.option("--tree", is_flag=True, help="Cancel all that waits for these jobs, too, directly or not.")
@DRY_RUN
@as_json
def cancel(target: Target, job_ids: tuple[int, ...], match: Filter, tree: bool, dry_run: bool, json_: bool) -> None:
    """
    Cancel waiting, blocked or running jobs.

    Name them by ID, or all that match the options. A waiting or blocked job is cancelled at once, and with it what is
    to run after it. The worker of a running job is asked to give it up, and does so within some seconds, unless the job
    is done before.

    With --tree also what waits for them is cancelled at once, whatever it was to do after a job that has failed, and
    before it could be unblocked. --dry-run lists all of them.
    """
    states = ("waiting", "blocked", "running")
    operation = Operation(states, "cancelled", lambda queue, job_id: queue.cancel(job_id), dry_run, json_, tree)
    change_each(target, job_ids, match, operation)
