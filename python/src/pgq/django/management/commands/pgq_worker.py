"""``manage.py pgq_worker``: the worker of ``pgq worker``, for the tasks of a project."""

from __future__ import annotations

import os
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS
from django.utils import autoreload

from pgq.cli.target import Target
from pgq.cli.worker import worker
from pgq.django.backend import backends
from pgq.django.schema import conninfo
from pgq.process.signals import StopSignals, end_at_once
from pgq.process.supervisor import LIFELINE

DISCOVER = "pgq.django.discover"
# Those of the options of pgq worker that Django's settings decide.
LEFT_OUT = {"dsn", "help"}
OPTIONS = [one for one in worker.params if isinstance(one, click.Option) and one.name not in LEFT_OUT]


class Command(BaseCommand):
    """Run the tasks of the project, as jobs of pgq."""

    help = (
        "Run the tasks in the modules tasks of all apps, and in each MODULE. Without --queue it serves the QUEUES of "
        "the backends that use the database."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Take what pgq worker takes."""
        parser.add_argument("modules", metavar="MODULE", nargs="*", help="further module with tasks or handlers")
        parser.add_argument(
            "--database", default=DEFAULT_DB_ALIAS, metavar="ALIAS", help="database that has the jobs; default: default"
        )
        parser.add_argument(
            "--reload",
            action="store_true",
            default=None,
            help="restart when code changes, after the running jobs; by default where DEBUG is set",
        )
        parser.add_argument("--no-reload", dest="reload", action="store_false", help="do not restart")
        for one in OPTIONS:
            action = "store_true" if one.is_flag else "append" if one.multiple else "store"
            given = {} if one.is_flag else {"metavar": metavar(one)}
            parser.add_argument(
                *one.opts, dest=one.name, action=action, default=None, help=(one.help or "").replace("%", "%%"), **given
            )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the worker, and restart it when code changes."""
        alias = options["database"]
        arguments = [*options["modules"], DISCOVER, *given(options)]
        if not any(options[name] for name in ("queues", "queue_prefixes", "all_queues")):
            arguments += queues_of(alias)
        target = Target((conninfo(alias),), options["schema"])
        reload = settings.DEBUG if options["reload"] is None else options["reload"]
        # Not in the processes of --processes, which their supervisor starts.
        reloader = Reloader() if reload and LIFELINE not in os.environ else None
        try:
            worker.main(arguments, "pgq_worker", standalone_mode=False, obj=target)
        except click.ClickException as error:
            if reloader is None:
                raise CommandError(error.format_message()) from error
            self.stderr.write(error.format_message())
            reloader.wait()
        except SystemExit:
            if reloader is None or not reloader.changed.is_set():
                raise
        if reloader is not None and reloader.changed.is_set():
            reloader.restart()


class Reloader:
    """Watch the code as runserver does; after a change stop the worker, so that it finishes what it runs."""

    def __init__(self) -> None:
        self.changed = threading.Event()
        autoreload.autoreload_started.connect(watch_apps)
        self.thread = threading.Thread(target=self._watch, name="pgq-reloader", daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Wait until code has changed: what failed may have been its import."""
        self.thread.join()

    def restart(self) -> None:
        """Become a new process of the same command."""
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

    def _watch(self) -> None:
        try:
            autoreload.get_reloader().run(threading.main_thread())
        except SystemExit:
            # This is how it reports a change.
            if takes_stop():
                self.changed.set()
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                self.restart()


def takes_stop() -> bool:
    """Return whether a worker runs, so that a signal lets it finish its jobs; before that it would end the command."""
    active = StopSignals.active
    if active is not None:
        return active._stop is not end_at_once
    return signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, end_at_once)


def watch_apps(sender: autoreload.BaseReloader, **kwargs: Any) -> None:
    """Watch also the files of the project's apps that are not imported, such as those with errors in them."""
    for app in apps.get_app_configs():
        if "site-packages" not in app.path:
            sender.watch_dir(Path(app.path), "**/*.py")


def metavar(option: click.Option) -> str:
    """Return what stands for the value of an option. Click's own method takes other arguments in 8.1 than in 8.2."""
    if isinstance(option.type, click.Choice):
        return f"[{'|'.join(option.type.choices)}]"
    return option.metavar or option.type.name.upper()


def given(options: dict[str, Any]) -> list[str]:
    """Return the options that were given, as pgq worker reads them."""
    arguments = []
    for one in OPTIONS:
        value = options.get(str(one.name))
        if value is None or value is False:
            continue
        if value is True:
            arguments.append(one.opts[0])
            continue
        for text in value if isinstance(value, list | tuple) else [value]:
            shown = f"{text.total_seconds()}s" if isinstance(text, timedelta) else str(text)
            arguments += [one.opts[0], shown]
    return arguments


def queues_of(alias: str) -> list[str]:
    """Return the options for the queues of the backends that use a database; a backend without QUEUES has all."""
    found = [backend.queues for backend in backends().values() if backend.database == alias]
    if not found or not all(found):
        return ["--all-queues"]
    return [part for queue in sorted(set().union(*found)) for part in ("--queue", queue)]
