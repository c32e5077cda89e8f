"""The command pgq_worker: the queues that it serves, its connections, and its tasks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import click
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.db import connection, connections
from django.test import SimpleTestCase, TransactionTestCase, tag
from django.utils import autoreload

import pgq
from pgq.django.management.commands.pgq_worker import OPTIONS, Reloader, given, queues_of
from pgq.django.schema import raw
from pgq.process.early import is_worker_command
from pgq.process.signals import StopSignals, end_at_once
from shop import tasks
from shop.framework import TaskResultStatus
from shop.models import Note

EXTRA = "from shop.framework import task\n\n@task\ndef added():\n    return {}\n"
MANAGE = Path(__file__).parents[2] / "manage.py"


def work(**options: object) -> None:
    """Run the command until no job is ripe."""
    call_command("pgq_worker", drain=True, log_level="error", skip_checks=True, **options)


class Worker(TransactionTestCase):
    """Jobs that are committed, and a real worker with connections of its own."""

    databases = {"default", "other"}

    def tearDown(self) -> None:
        """Remove the jobs."""
        for alias in self.databases:
            with connections[alias].cursor() as cursor:
                cursor.execute("TRUNCATE pgq_waiting, pgq_running, pgq_running_batch, pgq_ended")

    def test_it_runs_tasks_and_handlers(self) -> None:
        """Of all queues, because the backend has no QUEUES."""
        sums = [tasks.add.using(queue_name=name).enqueue(1) for name in ("default", "slow")]
        failed = tasks.write_and_fail.enqueue("n")
        once = tasks.write_once.enqueue("m")
        tasks.write_once.enqueue("never", fail=True)
        third = tasks.third_time.enqueue()
        with self.assertLogs(level="ERROR"):
            work()
        for result in (*sums, failed, once, third):
            result.refresh()
        self.assertEqual([result.return_value for result in sums], [2, 2])
        self.assertEqual((failed.status, failed.attempts), (TaskResultStatus.FAILED, 1))
        self.assertEqual((once.return_value, third.return_value[0]), ("m", 3))
        # A task that is no transaction keeps what it has written; one that is writes nothing when it fails.
        self.assertEqual(set(Note.objects.values_list("text", flat=True)), {"n", "m"})
        self.assertIn(f":{os.getpid()}:", sums[0].worker_ids[0])

    def test_it_serves_the_database_that_it_is_given(self) -> None:
        """And of that the queues of its backends."""
        here = tasks.add.enqueue(1)
        there = tasks.add.using(backend="other", queue_name="mail").enqueue(1)
        work(database="other")
        self.assertFalse(tasks.add.get_result(here.id).is_finished)
        self.assertTrue(tasks.add.using(backend="other", queue_name="mail").get_result(there.id).is_finished)
        self.assertEqual(queues_of("default"), ["--all-queues"])
        self.assertEqual(queues_of("other"), ["--queue", "mail", "--queue", "pictures"])

    def test_options_go_before_the_settings(self) -> None:
        """Such as --queue."""
        slow, other = (tasks.add.using(queue_name=name).enqueue(1) for name in ("slow", "quick"))
        work(queues=["slow"], concurrency=2)
        self.assertEqual([tasks.add.get_result(one.id).is_finished for one in (slow, other)], [True, False])

    def test_each_task_gets_a_connection_that_lives(self) -> None:
        """Old ones are closed around each job, as around requests."""
        connection.close()
        results = [tasks.backend_pid.enqueue() for _ in range(2)]
        work(concurrency=2)
        pids = [tasks.backend_pid.get_result(result.id).return_value for result in results]
        self.assertEqual(len(set(pids)), 2)

    def test_it_takes_the_options_of_pgq_worker(self) -> None:
        """With the same checks."""
        self.assertEqual(get_commands()["pgq_worker"], "pgq.django")
        names = {one.name for one in OPTIONS}
        self.assertLess({"concurrency", "processes", "queues", "lease", "health_file", "until_empty"}, names)
        self.assertEqual(
            given({"queues": ["a", "b"], "drain": True, "lease": "1m", "poll": None}),
            ["--queue", "a", "--queue", "b", "--lease", "1m", "--drain"],
        )
        with self.assertRaisesMessage(CommandError, "exclude each other"):
            work(queues=["a"], all_queues=True)
        with self.assertRaisesMessage(CommandError, "not a duration"):
            work(lease="soon")

    def test_its_help_needs_no_new_click(self) -> None:
        """In 8.1 the method that names the values of an option takes no argument."""
        with mock.patch.object(click.Option, "make_metavar", side_effect=TypeError):
            text = load_command_class("pgq.django", "pgq_worker").create_parser("manage.py", "pgq_worker").format_help()
        for part in ("--log-level [debug|info|warning|error]", "--lease DURATION", "--name TEXT"):
            self.assertIn(part, text)


class Signals(SimpleTestCase):
    """Stop signals, and those that a change of code sends."""

    def change(self, stop: Callable[[], None]) -> tuple[bool, bool]:
        """Let code change while a signal calls this; return whether the process is restarted at once, or signalled."""
        reloader = mock.Mock(**{"run.side_effect": SystemExit(3)})
        with (
            mock.patch.object(autoreload, "get_reloader", return_value=reloader),
            mock.patch.object(Reloader, "restart") as restart,
            mock.patch("os.kill") as kill,
            StopSignals(stop, lambda number: None, 0.0),
        ):
            Reloader().thread.join()
        return restart.called, kill.called

    def test_a_running_worker_is_stopped(self) -> None:
        """It finishes its jobs."""
        self.assertEqual(self.change(lambda: None), (False, True))

    def test_while_modules_are_imported_the_process_is_restarted(self) -> None:
        """A signal would end it there."""
        self.assertEqual(self.change(end_at_once), (True, False))

    def test_the_command_heeds_stop_signals_early(self) -> None:
        """As the first process of a container must."""
        for command, expected in (("pgq_worker", True), ("migrate", False)):
            with mock.patch.object(sys, "argv", ["manage.py", command]):
                self.assertIs(is_worker_command(), expected)


@tag("slow")
class Processes(TransactionTestCase):
    """The command in processes of its own."""

    databases = {"default"}

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        """Start the command on the test's database; what still runs at the end is killed."""
        environ = os.environ | {"DJANGO_DATABASE": str(connection.settings_dict["NAME"])} | env
        process = subprocess.Popen([sys.executable, MANAGE, "pgq_worker", *arguments], env=environ)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def tearDown(self) -> None:
        """Remove the jobs."""
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE pgq_waiting, pgq_running, pgq_running_batch, pgq_ended")

    def test_processes(self) -> None:
        """Their supervisor starts the same command again."""
        results = [tasks.add.enqueue(n) for n in range(3)]
        self.assertEqual(self.start("--processes", "2", "--drain").wait(60), 0)
        self.assertEqual([tasks.add.get_result(result.id).return_value for result in results], [1, 2, 3])

    def test_a_stop(self) -> None:
        """SIGTERM ends it, once it works, with exit code 0."""
        result = tasks.add.enqueue(1)
        process = self.start()
        self.until_finished(result)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(60), 0)

    def test_a_change_restarts_it(self) -> None:
        """In the same process; a module that cannot be imported is waited for."""
        extra = MANAGE.parent / "shop" / "extra_tasks.py"
        self.addCleanup(extra.unlink, missing_ok=True)
        self.write(extra, EXTRA.format(1))
        process = self.start("shop.extra_tasks", "--reload")
        self.assertEqual(self.extra(), 1)
        self.write(extra, "syntax error")
        deadline = time.monotonic() + 120
        while self.extra() != 2:
            self.assertLess(time.monotonic(), deadline)
            self.write(extra, EXTRA.format(2))
        self.assertIsNone(process.poll())

    def write(self, path: Path, text: str) -> None:
        """Write a file, with a later time than before."""
        at = path.stat().st_mtime + 2 if path.exists() else time.time()
        path.write_text(text)
        os.utime(path, (at, at))

    def extra(self) -> int:
        """Enqueue the task of that file, and return its result."""
        queue = pgq.Queue(raw(connection))
        job = queue.enqueue("shop.extra_tasks.added", dedup=False)
        value: int = queue.wait(job.id, 100).value
        return value

    def until_finished(self, result: Any) -> None:
        """Wait until a task has ended."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            result.refresh()
            if result.is_finished:
                return
            time.sleep(0.05)
        self.fail("the task did not run")
