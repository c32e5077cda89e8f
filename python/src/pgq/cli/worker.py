"""The command that runs jobs."""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import threading
from datetime import timedelta
from pathlib import Path

import click

from pgq import handlers
from pgq.cli.support import Mistake, Target, duration, mistakes
from pgq.process import logs
from pgq.process.signals import end_within
from pgq.process.supervisor import DRAINED, LIFELINE, Supervisor
from pgq.reload import Files
from pgq.worker.drain import Drain
from pgq.worker.joblog import logger
from pgq.worker.worker import LEAVE_WITHIN, Worker


@click.command()
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option("--queue", "queues", multiple=True, default=("default",), help="Queue to serve; may be repeated.")
@click.option(
    "--concurrency", type=click.IntRange(1, 100), default=1, help="Threads, for handlers that wait for the network."
)
@click.option("--processes", type=click.IntRange(1, 100), default=1, help="Processes, for handlers that compute.")
@click.option(
    "--batch", type=click.IntRange(1, 10_000), default=100, help="Jobs claimed at a time; fewer when they take long."
)
@click.option(
    "--lease",
    type=duration,
    metavar="DURATION",
    default="5m",
    help="After this long without a sign of life, others take the jobs.",
)
@click.option("--poll", type=duration, metavar="DURATION", default="1s", help="Longest pause when nothing is ripe.")
@click.option(
    "--grace", type=duration, metavar="DURATION", default="30s", help="What a stop leaves to the handlers that run."
)
@click.option("--max-jobs", type=click.IntRange(1), help="End after so many jobs; with --processes, be replaced.")
@click.option("--drain", is_flag=True, help="End when nothing is ripe.")
@click.option("--until-empty", is_flag=True, help="End when nothing waits and nothing runs; also wait for later jobs.")
@click.option(
    "--presence/--no-presence",
    default=True,
    help="Let others notice when this worker is killed; needs its own session.",
)
@click.option("--listen/--no-listen", default=True, help="Be notified of jobs, and keep settings in the session.")
@click.option("--name", help="Label of the worker, to be seen by operators.  [default: the host]")
@click.option("--reload", is_flag=True, help="Start again when a Python file below the current directory changes.")
@click.option(
    "--health-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Touch this file at each turn.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", help="Least to log."
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="For people, or for machines.")
@click.make_pass_decorator(Target)
def worker(
    at: Target,
    modules: tuple[str, ...],
    queues: tuple[str, ...],
    concurrency: int,
    processes: int,
    batch: int,
    lease: timedelta,
    poll: timedelta,
    grace: timedelta,
    max_jobs: int | None,
    drain: bool,
    until_empty: bool,
    presence: bool,
    listen: bool,
    name: str | None,
    reload: bool,
    health_file: Path | None,
    log_level: str,
    log_format: str,
) -> None:
    """
    Run jobs with the handlers that MODULE registers.

    Modules are looked for in the current directory, too. SIGTERM or Ctrl-C stops the worker: jobs that run are finished
    within --grace, those that were not begun go back, and the exit code is 0. A second signal does not wait: jobs that
    run are given back where they can be, and the exit code is 143 or 130.

    Behind a pooler in transaction mode, such as PgBouncer, use --no-presence --no-listen.
    """
    logs.configure(log_level, log_format)
    lifeline = os.environ.pop(LIFELINE, None)
    if lifeline is None and (processes > 1 or reload):
        files = Files(Path.cwd()) if reload else None
        command = [sys.executable, "-m", "pgq", *sys.argv[1:]]
        sys.exit(Supervisor(command, processes, grace=grace.total_seconds(), files=files).run())

    load(modules)
    code = 1
    try:
        with mistakes(), socket.socket(fileno=int(lifeline)) if lifeline is not None else socket.socket() as line:
            one = Worker(
                at.dsn,
                queues=queues,
                concurrency=concurrency,
                batch=batch,
                lease=lease,
                poll=poll.total_seconds(),
                grace=grace.total_seconds(),
                max_jobs=max_jobs,
                drain=Drain(until_empty=until_empty) if drain or until_empty else None,
                presence=presence,
                listen=listen,
                name=name,
                schema=at.schema,
                health_file=health_file,
            )
            one.run(line if lifeline is not None else None)
            if lifeline is not None and one.drained:
                with contextlib.suppress(OSError):
                    line.send(DRAINED)
        code = 0
    finally:
        exit_despite_threads(code)


def exit_despite_threads(code: int) -> None:
    """Do not wait for long for threads that handlers have left behind."""
    left = [one.name for one in threading.enumerate() if not one.daemon and one is not threading.current_thread()]
    if left:
        logger.warning("%d threads of handlers still run: %s", len(left), ", ".join(left))
        end_within(LEAVE_WITHIN, code)


def load(modules: tuple[str, ...]) -> None:
    """Import the modules, which register their handlers."""
    sys.path.insert(0, os.getcwd())
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise Mistake(f"cannot import {module}: {type(error).__name__}: {error}") from error
    if not handlers.default.kinds:
        raise Mistake(f"{', '.join(modules)} registers no handler", "Decorate a function with @pgq.handler(KIND).")
