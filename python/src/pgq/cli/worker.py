"""The command that runs jobs."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from datetime import timedelta
from pathlib import Path

import click

from pgq.cli.completion import complete_queues
from pgq.cli.databases import databases
from pgq.cli.errors import CommandError, command_errors
from pgq.cli.modules import load
from pgq.cli.schedules import declare, line_of
from pgq.cli.target import Target, pass_target
from pgq.cli.values import duration, size
from pgq.process import logs
from pgq.process.health import DRAINED, REFUSED, Health
from pgq.process.logs import logger
from pgq.process.signals import StopSignals, end_at_once, exit_within
from pgq.process.supervisor import LIFELINE, Supervisor
from pgq.worker.abort import RELEASE_WITHIN
from pgq.worker.databases import Databases
from pgq.worker.drain import Drain
from pgq.worker.refusal import Refused
from pgq.worker.settings import QueueOrder
from pgq.worker.worker import Worker


@click.command()
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option(
    "--queue",
    "queues",
    shell_complete=complete_queues,
    multiple=True,
    help="Queue to serve; may be repeated.  [default: default]",
)
@click.option(
    "--queue-prefix", "queue_prefixes", multiple=True, help="Serve the queues that begin with this; may be repeated."
)
@click.option("--all-queues", is_flag=True, help="Serve all queues that the role of the worker may use.")
@click.option(
    "--queue-order",
    type=click.Choice(["strict", "rotate"]),
    help="Within a priority, serve all jobs of the first --queue before any of the second (strict), however long that "
    "is, or let each queue come first in turn (rotate).  [default: strict, but rotate with --queue-prefix or "
    "--all-queues]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 100),
    default=1,
    help="Threads, for handlers that wait for the network; if all handlers are async, how many of them run at a time.",
)
@click.option("--processes", type=click.IntRange(1, 100), default=1, help="Processes, for handlers that compute.")
@click.option(
    "--batch", type=click.IntRange(1, 10_000), default=500, help="Jobs claimed at a time; fewer when they take long."
)
@click.option(
    "--batch-bytes",
    type=size,
    metavar="SIZE",
    default="16MiB",
    help="Arguments claimed at a time, such as 4MiB, 500kB or a number of bytes; the first job may be larger.",
)
@click.option(
    "--lease",
    type=duration,
    metavar="DURATION",
    default="5m",
    help="Time after the last extension until other workers may take a job.",
)
@click.option(
    "--poll",
    type=duration,
    metavar="DURATION",
    default="1s",
    help="Time between two looks for ripe jobs; more than 1s only with --transaction-pooler.",
)
@click.option(
    "--grace",
    type=duration,
    metavar="DURATION",
    default="25s",
    help="Time that running handlers get to finish after a stop; less than what kills the process (docker stop: 10 s).",
)
@click.option(
    "--max-jobs", type=click.IntRange(1), help="End after this many jobs; with --processes a successor starts."
)
@click.option("--drain", is_flag=True, help="End when no job is ripe.")
@click.option("--until-empty", is_flag=True, help="End when no job waits and none runs; wait for later jobs.")
@click.option(
    "--transaction-pooler",
    is_flag=True,
    help="Keep nothing in a session, for PgBouncer in transaction mode: no presence, no wake-up, only polling.",
)
@click.option("--schedules", is_flag=True, help="First make the schedules of the handlers, as pgq schedule sync does.")
@click.option("--name", help="Label of the worker, shown to operators.  [default: the host]")
@click.option(
    "--health-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Update the mtime of this file while the worker does its work (for a liveness probe).",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    help="Minimum level to log.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="For people, or for machines.")
@pass_target
def worker(
    target: Target,
    modules: tuple[str, ...],
    queues: tuple[str, ...],
    queue_prefixes: tuple[str, ...],
    all_queues: bool,
    queue_order: QueueOrder | None,
    concurrency: int,
    processes: int,
    batch: int,
    batch_bytes: int,
    lease: timedelta,
    poll: timedelta,
    grace: timedelta,
    max_jobs: int | None,
    drain: bool,
    until_empty: bool,
    transaction_pooler: bool,
    schedules: bool,
    name: str | None,
    health_file: Path | None,
    log_level: str,
    log_format: str,
) -> None:
    """
    Run jobs with the handlers that MODULE registers.

    Modules are also searched in the current directory. SIGTERM or Ctrl-C stops the worker: running jobs finish within
    --grace, jobs that have not begun go back, and the exit code is 0. A second signal does not wait: running jobs are
    given back where that is possible, and the exit code is 143 or 130.
    """
    if bool(queues) + bool(queue_prefixes) + all_queues > 1:
        raise click.UsageError("--queue, --queue-prefix and --all-queues exclude each other.")
    if until_empty and (queue_prefixes or all_queues):
        raise click.UsageError("--until-empty takes --queue: jobs may run in queues that this worker does not find.")
    logs.configure(log_level, log_format)
    # The modules may change the working directory.
    health_file = health_file.absolute() if health_file is not None else None
    lifeline = os.environ.pop(LIFELINE, None)
    if lifeline is not None:
        # Not for the programs that handlers start.
        os.set_inheritable(int(lifeline), False)
    if lifeline is None and processes > 1:
        # Also that of a program that calls this one, such as manage.py.
        command = [sys.executable, *sys.orig_argv[1:]]
        sys.exit(Supervisor(command, processes, grace=grace.total_seconds(), health=Health(health_file)).run())

    code = 1
    try:
        with command_errors(), socket.socket(fileno=int(lifeline)) if lifeline is not None else socket.socket() as line:
            with StopSignals(end_at_once, end_at_once, 0.0, line if lifeline is not None else None):
                load(modules)
                targets = databases(target)
                if schedules and len(targets) == 1:
                    declare_all(target, modules)

            def make(database: str) -> Worker:
                if schedules and len(targets) > 1:
                    declare_all(targets[database], modules)
                return Worker(
                    targets[database].dsn,
                    queues=queues or None,
                    queue_prefixes=queue_prefixes,
                    all_queues=all_queues,
                    queue_order=queue_order,
                    concurrency=concurrency,
                    batch=batch,
                    batch_bytes=batch_bytes,
                    lease=lease,
                    poll=poll.total_seconds(),
                    grace=grace.total_seconds(),
                    max_jobs=max_jobs,
                    drain=Drain(until_empty=until_empty) if drain or until_empty else None,
                    transaction_pooler=transaction_pooler,
                    name=name,
                    schema=target.schema,
                    health_file=health_file,
                )

            one = (
                make(next(iter(targets)))
                if len(targets) == 1
                else Databases(
                    list(targets), make, grace=grace.total_seconds(), max_jobs=max_jobs, health_file=health_file
                )
            )
            try:
                one.run(line if lifeline is not None else None)
            except Refused:
                if lifeline is not None:
                    with contextlib.suppress(OSError):
                        line.send(REFUSED)
                raise
            if lifeline is not None and one.drained:
                with contextlib.suppress(OSError):
                    line.send(DRAINED)
        code = 0
    finally:
        exit_in_time(code)


def declare_all(target: Target, modules: tuple[str, ...]) -> None:
    """Make the schedules of the handlers. Raises the error of the database, where there is one."""
    try:
        for change in declare(target, modules):
            logger.info("schedule %s", line_of(change))
    except CommandError as error:
        raise error.__cause__ or error from None


def exit_in_time(code: int) -> None:
    """
    Limit how long the process waits for threads and processes that handlers have left behind.

    Python ends those of pools, but a Pool of which a process was killed may make it wait for ever.
    """
    multiprocessing = sys.modules.get("multiprocessing.process")
    processes = [] if multiprocessing is None else multiprocessing.active_children()
    left = [one.name for one in threading.enumerate() if not one.daemon and one is not threading.current_thread()]
    if left:
        logger.warning("%d threads of handlers still run: %s", len(left), ", ".join(left))
    if left or processes:
        exit_within(RELEASE_WITHIN, code)
