"""Enqueue: in Django's transaction, with what a task and the backend say."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.db.utils import IntegrityError
from django.test import TestCase, TransactionTestCase, override_settings
from django.utils import timezone

import pgq
from pgq.django.models import Job
from pgq.django.task import level
from pgq.django.testing import run_ripe
from shop import tasks
from shop.framework import task_backends, task_enqueued
from shop.models import Note


def seen_by_others(using: str = "default") -> int:
    """Return how many jobs another session sees."""
    other = connections[using].copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pgq_jobs")
            count: int = cursor.fetchone()[0]
            return count
    finally:
        other.close()


class InTransactions(TransactionTestCase):
    """Jobs come with the transaction that has enqueued them, or not at all."""

    databases = {"default", "other"}

    def tearDown(self) -> None:
        """Remove the jobs: Django truncates only tables that it manages."""
        for using in self.databases:
            with connections[using].cursor() as cursor:
                cursor.execute("TRUNCATE pgq_waiting, pgq_ended")

    def test_no_other_session_sees_a_job_before_the_commit(self) -> None:
        """Also that of a worker."""
        with transaction.atomic():
            tasks.add.enqueue(1)
            self.assertEqual(seen_by_others(), 0)
        self.assertEqual(seen_by_others(), 1)

    def test_a_rollback_takes_the_job_along(self) -> None:
        """With the rows that the request has written."""
        with self.assertRaises(LookupError), transaction.atomic():
            Note.objects.create(text="n")
            tasks.add.enqueue(1)
            raise LookupError
        self.assertEqual((seen_by_others(), Note.objects.count()), (0, 0))

    def test_a_savepoint_that_is_rolled_back_takes_its_job_along(self) -> None:
        """The job of the transaction around it stays."""
        with transaction.atomic():
            kept = tasks.add.enqueue(1)
            with self.assertRaises(LookupError), transaction.atomic():
                tasks.add.enqueue(2)
                raise LookupError
        self.assertEqual([str(job.pk) for job in Job.objects.all()], [kept.id])

    def test_without_a_transaction_the_job_is_there_at_once(self) -> None:
        """Django's autocommit."""
        tasks.add.enqueue(1)
        self.assertEqual(seen_by_others(), 1)

    def test_a_transaction_of_one_database_does_not_hold_jobs_of_another(self) -> None:
        """The backend decides which database has the job."""
        with self.assertRaises(LookupError), transaction.atomic():
            tasks.add.using(backend="other", queue_name="mail").enqueue(1)
            raise LookupError
        self.assertEqual((seen_by_others(), seen_by_others("other")), (0, 1))

    def test_a_refused_enqueue_breaks_the_transaction_as_any_statement_does(self) -> None:
        """Django sees the error, and rolls back."""
        with self.assertRaises(pgq.DuplicateJob), transaction.atomic("other"):
            tasks.once.enqueue(1)
            tasks.once.enqueue(2)
        self.assertEqual(seen_by_others("other"), 0)


class Values(TestCase):
    """What becomes of a task's values."""

    databases = {"default", "other"}

    def job(self, result: Any, using: str = "default") -> Job:
        """Return the job of a result."""
        job: Job = Job.objects.using(using).get(pk=result.id)
        return job

    def test_two_equal_tasks_are_two_jobs(self) -> None:
        """There is no deduplication unless a task asks for it."""
        ids = {tasks.add.enqueue(1, b=2).id for _ in range(2)}
        self.assertEqual(len(ids), 2)
        self.assertEqual(run_ripe(), 2)

    def test_a_key_asks_for_deduplication(self) -> None:
        """The second enqueue returns the job that waits."""
        keyed = tasks.add.using(dedup_key="k")
        self.assertEqual(keyed.enqueue(1).id, keyed.enqueue(2).id)

    def test_dedup_compares_the_arguments(self) -> None:
        """As for other jobs of pgq."""
        same = tasks.add.using(dedup=True)
        self.assertEqual(same.enqueue(1).id, same.enqueue(1).id)
        self.assertNotEqual(same.enqueue(1).id, same.enqueue(2).id)

    def test_a_duplicate_may_be_an_error(self) -> None:
        """It is that of pgq, which Django's error stands for."""
        tasks.once.enqueue(1)
        with self.assertRaises(pgq.DuplicateJob), transaction.atomic("other"):
            tasks.once.enqueue(2)

    def test_other_errors_are_those_of_django(self) -> None:
        """A queue without a name, say."""
        with self.assertRaises(Exception) as caught, transaction.atomic():
            tasks.add.using(queue_name="q" * 1000).enqueue(1)
        self.assertEqual(type(caught.exception).__module__, "django.db.utils")
        self.assertNotIsInstance(caught.exception, IntegrityError)

    def test_the_columns_of_the_job(self) -> None:
        """The kind is the path of the task."""
        job = self.job(tasks.add.enqueue(1, b=2))
        self.assertEqual((job.kind, job.args), ("shop.tasks.add", {"args": [1], "kwargs": {"b": 2}}))
        self.assertEqual((job.queue, job.priority, job.max_retries, job.context), ("default", 5, 0, None))

    def test_a_task_goes_before_the_options_of_its_backend(self) -> None:
        """Without either, a task is tried once."""
        queued = tasks.add.using(backend="other", queue_name="mail")
        self.assertEqual(self.job(queued.enqueue(1), "other").max_retries, 3)
        self.assertEqual(self.job(queued.using(max_retries=7).enqueue(1), "other").max_retries, 7)
        self.assertEqual(self.job(queued.using(max_retries=0).enqueue(1), "other").max_retries, 0)
        self.assertEqual(self.job(tasks.third_time.enqueue()).max_retries, 2)

    @override_settings(
        TASKS={"default": {"BACKEND": "pgq.django.backend.PgqBackend", "OPTIONS": {"max_retries": None}}}
    )
    def test_none_leaves_the_retries_to_the_queue(self) -> None:
        """Without a setting of the queue they are 10."""
        self.assertEqual(self.job(tasks.add.enqueue(1)).max_retries, 10)

    def test_the_options_of_a_decorator_reach_the_job(self) -> None:
        """Here a group."""
        self.assertEqual(self.job(tasks.once.enqueue(1), "other").group_key, "g")

    def test_priorities_keep_their_order(self) -> None:
        """100 is first, 0 is the default of pgq, -100 is last."""
        levels = [level(priority) for priority in range(100, -101, -1)]
        self.assertEqual(levels, sorted(levels))
        self.assertEqual({n for n in range(-100, 101) if level(n) == 5}, {0})
        self.assertEqual((levels[0], levels[-1], len(set(levels))), (0, 9, 10))
        self.assertEqual([level(n) for n in (81, 80, 1, -1, -25, -26)], [0, 1, 4, 6, 6, 7])

    def test_the_highest_priority_runs_first(self) -> None:
        """As the framework's documentation has it."""
        for priority in (0, -50, 100):
            tasks.write.using(priority=priority).enqueue(str(priority))
        run_ripe()
        self.assertEqual(list(Note.objects.order_by("id").values_list("text", flat=True)), ["100", "0", "-50"])

    def test_run_after(self) -> None:
        """The job is not ripe before."""
        at = timezone.now() + timedelta(hours=2)
        result = tasks.add.using(run_after=at).enqueue(1)
        self.assertEqual(self.job(result).ripe_at, at)
        self.assertEqual(run_ripe(), 0)
        self.assertEqual(tasks.add.get_result(result.id).task, result.task)

    @override_settings(USE_TZ=False)
    def test_run_after_without_time_zones_is_local(self) -> None:
        """TIME_ZONE is that of Tokyo."""
        result = tasks.add.using(run_after=datetime(2040, 1, 1, 9)).enqueue(1)
        with connections["default"].cursor() as cursor:
            cursor.execute("SELECT ripe_at = '2040-01-01 00:00Z' FROM pgq_jobs WHERE id = %s", [result.id])
            self.assertEqual(cursor.fetchone(), (True,))

    @override_settings(JOBS_IN="other")
    def test_a_router_decides_where_no_option_does(self) -> None:
        """For the model Job, in writes."""
        result = tasks.add.enqueue(1)
        self.assertEqual(self.job(result, "other").kind, "shop.tasks.add")
        self.assertEqual(tasks.add.get_result(result.id).id, result.id)

    async def test_aenqueue(self) -> None:
        """In the thread, and on the connection, of the test's synchronous code."""
        result = await tasks.add.aenqueue(1, b=3)
        self.assertEqual(await sync_to_async(run_ripe)(), 1)
        self.assertEqual((await tasks.add.aget_result(result.id)).return_value, 4)
        await result.arefresh()
        self.assertEqual(result.return_value, 4)

    def test_the_signal(self) -> None:
        """It has the result that the caller gets."""
        got: list[Any] = []
        receiver: Callable[..., None] = lambda sender, task_result, **_: got.append((sender, task_result))  # noqa: E731
        task_enqueued.connect(receiver)
        self.addCleanup(task_enqueued.disconnect, receiver)
        result = tasks.add.enqueue(1)
        self.assertEqual(got, [(type(task_backends["default"]), result)])

    def test_one_enqueue_is_one_query(self) -> None:
        """And so is one look at the result."""
        with self.assertNumQueries(1):
            result = tasks.add.enqueue(1)
        with self.assertNumQueries(1):
            result.refresh()
