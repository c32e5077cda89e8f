"""Run tasks in the transaction of a test, and read their results."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import PermissionDenied
from django.db import connection
from django.test import TestCase, override_settings

import pgq
from pgq.django.results import task_error
from pgq.django.testing import run_ripe
from shop import tasks
from shop.framework import (
    TaskResultDoesNotExist,
    TaskResultMismatch,
    TaskResultStatus,
    task_backends,
    task_finished,
    task_started,
)
from shop.models import Note

READY, RUNNING, FAILED, SUCCESSFUL = (
    TaskResultStatus.READY,
    TaskResultStatus.RUNNING,
    TaskResultStatus.FAILED,
    TaskResultStatus.SUCCESSFUL,
)


class Run(TestCase):
    """Each test enqueues, and runs what is ripe."""

    databases = {"default", "other"}

    def signals(self) -> list[tuple[str, str, str]]:
        """Return a list that gets each signal of a task: its name, the id, and the status."""
        got: list[tuple[str, str, str]] = []
        for name, signal in (("started", task_started), ("finished", task_finished)):

            def receive(sender: Any, task_result: Any, name: str = name, **_: Any) -> None:
                self.assertIs(sender, type(task_backends["default"]))
                got.append((name, task_result.id, str(task_result.status)))

            signal.connect(receive, weak=False)
            self.addCleanup(signal.disconnect, receive)
        return got

    def test_a_value_is_the_result(self) -> None:
        """With the times and the worker."""
        result = tasks.add.enqueue(1, b=2)
        self.assertEqual((result.status, result.attempts), (READY, 0))
        got = self.signals()
        self.assertEqual(run_ripe(), 1)
        result.refresh()
        self.assertEqual((result.status, result.return_value, result.attempts), (SUCCESSFUL, 3, 1))
        self.assertEqual((result.worker_ids, result.errors), (["test"], []))
        self.assertLess(result.enqueued_at, result.started_at)
        self.assertEqual(result.started_at, result.last_attempted_at)
        self.assertLess(result.started_at, result.finished_at)
        self.assertEqual(got, [("started", result.id, "RUNNING"), ("finished", result.id, "SUCCESSFUL")])

    def test_a_task_that_returns_none_is_kept_too(self) -> None:
        """Its result is null."""
        result = tasks.write.enqueue("n")
        run_ripe()
        result.refresh()
        self.assertEqual((result.status, result.return_value), (SUCCESSFUL, None))

    def test_a_failed_task_has_its_error(self) -> None:
        """With the class and the traceback; what it has written stays, as with a worker."""
        result = tasks.write_and_fail.enqueue("n")
        got = self.signals()
        with self.assertLogs():
            run_ripe()
        result.refresh()
        self.assertEqual((result.status, result.is_finished, Note.objects.count()), (FAILED, True, 1))
        (error,) = result.errors
        self.assertIs(error.exception_class, LookupError)
        self.assertTrue(error.traceback.startswith("Traceback (most recent call last):\n"), error.traceback)
        self.assertTrue(error.traceback.endswith("\nLookupError: no n\n"), error.traceback)
        self.assertIn("in write_and_fail", error.traceback)
        self.assertEqual(got[1:], [("finished", result.id, "FAILED")])
        with self.assertRaisesMessage(ValueError, "Task failed"):
            result.return_value  # noqa: B018 - it raises

    def test_a_task_is_retried_and_knows_its_attempts(self) -> None:
        """The signal comes at the end only."""
        result = tasks.third_time.enqueue()
        got = self.signals()
        self.assertEqual(run_ripe(), 3)
        result.refresh()
        self.assertEqual(result.return_value, [3, 3, ["ValueError: attempt 1", "ValueError: attempt 2"]])
        self.assertEqual((result.attempts, result.worker_ids), (3, ["test"] * 3))
        self.assertEqual([str(error.exception_class.__name__) for error in result.errors], ["ValueError"] * 2)
        self.assertEqual([name for name, _, _ in got], ["started"] * 3 + ["finished"])
        self.assertLess(result.started_at, result.last_attempted_at)

    def test_between_two_attempts_a_task_is_ready(self) -> None:
        """With the error of the first."""
        result = tasks.add.using(max_retries=1, backoff="1 hour").enqueue("a")
        got = self.signals()
        run_ripe()
        result.refresh()
        self.assertEqual((result.status, result.attempts, result.is_finished), (READY, 1, False))
        self.assertIs(result.errors[0].exception_class, TypeError)
        self.assertEqual(result.started_at, result.last_attempted_at)
        self.assertEqual([name for name, _, _ in got], ["started"])

    def test_a_coroutine_runs_with_its_context(self) -> None:
        """In an event loop."""
        result = tasks.wait.enqueue({"a": [1]})
        run_ripe()
        result.refresh()
        self.assertEqual(result.return_value, [1, {"a": [1]}])

    def test_a_transactional_task_ends_its_job_itself(self) -> None:
        """With its writes."""
        done, failed = tasks.write_once.enqueue("n"), tasks.write_once.enqueue("m", fail=True)
        with self.assertLogs():
            run_ripe()
        done.refresh()
        failed.refresh()
        self.assertEqual((done.return_value, failed.status), ("n", FAILED))
        self.assertEqual([note.text for note in Note.objects.all()], ["n"])

    def test_cancel_on_ends_a_task_early(self) -> None:
        """It counts as failed."""
        result = tasks.give_up.enqueue()
        got = self.signals()
        with self.assertLogs():
            self.assertEqual(run_ripe(), 1)
        result.refresh()
        self.assertEqual((result.status, result.errors[0].exception_class), (FAILED, KeyError))
        self.assertEqual(got[-1][0], "finished")

    def test_a_value_that_is_not_in_json_fails_the_task(self) -> None:
        """As in the framework's own backends."""
        result = tasks.complex_value.enqueue()
        with self.assertLogs():
            run_ripe()
        result.refresh()
        self.assertEqual((result.status, result.errors[0].exception_class), (FAILED, TypeError))

    def test_a_snooze_is_no_attempt(self) -> None:
        """Nor is it an error."""
        result = tasks.snooze.enqueue()
        got = self.signals()
        run_ripe()
        result.refresh()
        self.assertEqual((result.status, result.attempts, result.errors), (READY, 0, []))
        self.assertEqual([name for name, _, _ in got], ["started"])

    def test_handlers_run_too_and_unknown_kinds_stay(self) -> None:
        """A job that is no task has no result of the framework."""
        queue = pgq.Queue(connection.connection)
        plain, unknown = queue.enqueue("plain", 7), queue.enqueue("shop.tasks.nobody")
        self.assertEqual(run_ripe(), 1)
        self.assertEqual(queue.result(plain.id).value, 7)
        self.assertEqual(queue.result(unknown.id).state, "waiting")
        for job_id in (plain.id, unknown.id):
            with self.assertRaises(TaskResultDoesNotExist):
                task_backends["default"].get_result(str(job_id))

    def test_handlers_are_called_as_by_a_worker(self) -> None:
        """With a connection, or with a list."""
        queue = pgq.Queue(connection.connection)
        ids = [queue.enqueue(*job).id for job in (("with a connection", 7), ("list", 8), ("list", 0))]
        self.assertEqual(run_ripe(), 3)
        found = queue.results(ids)
        self.assertEqual([one.value for one in found], [[7], 8, None])
        self.assertEqual([one.state for one in found], ["done", "done", "dead"])
        job = queue.enqueue("async", 9)
        self.assertEqual((run_ripe(), queue.result(job.id).value), (1, 9))

    def test_a_task_that_breaks_the_transaction_fails_alone(self) -> None:
        """What it has written is undone, and the test goes on."""
        for task in (tasks.write_and_break, tasks.write_and_break_django):
            with self.subTest(task.name), self.assertLogs():
                result = task.enqueue("n")
                self.assertEqual(run_ripe(), 1)
                result.refresh()
                self.assertEqual((result.status, Note.objects.count()), (FAILED, 0))

    def test_a_task_may_be_enqueued_without_django(self) -> None:
        """By its path, with arguments as the backend writes them, or without."""
        queue = pgq.Queue(connection.connection)
        job = queue.enqueue("shop.tasks.add", {"args": [1]})
        run_ripe()
        self.assertEqual(task_backends["default"].get_result(str(job.id)).return_value, 2)

    def test_only_these_queues(self) -> None:
        """And only this database."""
        result = tasks.add.using(queue_name="slow").enqueue(1)
        other = tasks.add.using(queue_name="mail", backend="other").enqueue(1)
        self.assertEqual(run_ripe(queues=["default"]), 0)
        self.assertEqual((run_ripe(queues=["slow"]), run_ripe("other")), (1, 1))
        self.assertEqual((tasks.add.get_result(result.id).return_value), 2)
        found = task_backends["other"].get_result(other.id)
        self.assertEqual((found.backend, found.task.backend, found.return_value), ("other", "other", 2))

    def test_what_does_not_exist(self) -> None:
        """Whatever the id looks like."""
        for result_id in ("0", "123", "x", "", "-1", "9" * 40):
            with self.subTest(result_id), self.assertRaises(TaskResultDoesNotExist):
                tasks.add.get_result(result_id)

    def test_the_result_of_another_task(self) -> None:
        """As with the other backends."""
        with self.assertRaises(TaskResultMismatch):
            tasks.add.get_result(tasks.write.enqueue("n").id)

    def test_the_values_of_a_task_are_kept(self) -> None:
        """The priority of pgq has fewer levels."""
        task = tasks.add.using(priority=33, queue_name="q")
        result = task.enqueue(1)
        self.assertEqual(tasks.add.get_result(result.id).task, task)

    def test_a_running_task(self) -> None:
        """As seen while a worker has it."""
        result = tasks.add.enqueue(1)
        pgq.WorkerQueue(connection.connection).claim(worker="w")
        result.refresh()
        self.assertEqual((result.status, result.worker_ids, result.attempts), (RUNNING, ["w"], 1))

    def test_a_declined_job_has_no_error(self) -> None:
        """The note of a worker without this task is none of the task."""
        result = tasks.add.enqueue(1)
        queue = pgq.WorkerQueue(connection.connection)
        (job,) = queue.claim(worker="w")
        queue.decline(job)
        result.refresh()
        self.assertEqual((result.status, result.errors, result.attempts, result.started_at), (READY, [], 0, None))

    @override_settings(
        TASKS={
            "default": {"BACKEND": "pgq.django.backend.PgqBackend"},
            "missing": {"BACKEND": "does.not.exist"},
        }
    )
    def test_a_backend_that_cannot_be_made(self) -> None:
        """It harms no task of the others."""
        result = tasks.add.enqueue(1)
        run_ripe()
        result.refresh()
        self.assertEqual(result.return_value, 2)

    def test_a_role_that_may_not_read_arguments(self) -> None:
        """It sees the job without them, because it is admin of another queue only."""
        result = tasks.add.enqueue(1)
        with connection.cursor() as cursor:
            # PostgreSQL 14 lets every role create objects there, and pgq_grant refuses that.
            cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            cursor.execute("CREATE ROLE django_reader; SELECT pgq_grant('django_reader', 'reader')")
            cursor.execute("SELECT pgq_grant('django_reader', 'admin', '{other}')")
            cursor.execute("SET LOCAL ROLE django_reader")
        with self.assertRaisesMessage(PermissionDenied, f"may not read job {result.id}"):
            tasks.add.get_result(result.id)

    def test_a_role_that_only_enqueues(self) -> None:
        """It needs no more than the privilege of a producer."""
        with connection.cursor() as cursor:
            cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            cursor.execute("CREATE ROLE django_producer; SELECT pgq_grant('django_producer', 'producer')")
            cursor.execute("SET LOCAL ROLE django_producer")
            self.assertEqual(tasks.add.enqueue(1).status, READY)
            cursor.execute("RESET ROLE")
        self.assertEqual(run_ripe(), 1)

    @override_settings(USE_TZ=False)
    def test_times_without_zones(self) -> None:
        """All are naive, as timezone.now() is."""
        result = tasks.add.using(max_retries=1).enqueue("a")
        run_ripe()
        result.refresh()
        self.assertIsNone(result.started_at.tzinfo)


class Errors(TestCase):
    """Errors of pgq as the framework has them."""

    def test_texts(self) -> None:
        """Of exceptions, with messages of several lines, of cut tracebacks, and of what is no exception."""
        frames = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n'
        for text, path, traceback in (
            (f"ValueError: a\n\nb\n\n{frames}", "builtins.ValueError", f"{frames}ValueError: a\n\nb\n"),
            (f"shop.errors.Late: x\n\n{frames}", "shop.errors.Late", f"{frames}shop.errors.Late: x\n"),
            (f"KeyError\n\n{frames}", "builtins.KeyError", f"{frames}KeyError\n"),
            ("ValueError: a\n\nf\n    raise\n", "builtins.ValueError", "f\n    raise\nValueError: a\n"),
            ("the worker is gone", "pgq.Error", "the worker is gone\n"),
            ("", "pgq.Error", "\n"),
        ):
            with self.subTest(text):
                error = task_error(text)
                self.assertEqual((error.exception_class_path, error.traceback), (path, traceback))
