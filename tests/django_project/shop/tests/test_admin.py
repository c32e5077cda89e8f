"""The list of jobs in the admin: it shows, to those who may look, and changes nothing."""

from __future__ import annotations

from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import TestCase
from django.urls import reverse

import pgq
from pgq.django import admin
from pgq.django.models import Job
from pgq.django.testing import run_ripe
from shop import tasks

LIST = "/admin/pgq/job/"


class Admin(TestCase):
    """A user with a permission, and one without."""

    def setUp(self) -> None:
        """Log a user in who may view jobs."""
        self.user = User.objects.create_user("ann", is_staff=True)
        self.user.user_permissions.add(Permission.objects.get(codename="view_job"))
        self.client.force_login(self.user)

    def test_a_list_of_jobs(self) -> None:
        """The newest first; what may be long is not read."""
        tasks.add.enqueue("long " * 9)
        tasks.write.using(queue_name="mail").enqueue("n")
        with self.assertNumQueries(6) as queries:
            page = self.client.get(LIST).content.decode()
        self.assertNotIn('"args"', str(queries.captured_queries))
        self.assertLess(page.index("shop.tasks.write"), page.index("shop.tasks.add"))
        self.assertNotIn("long", page)

    def test_filters_and_a_search(self) -> None:
        """By state, and by queue or kind."""
        tasks.add.enqueue(1)
        run_ripe()
        tasks.write.enqueue("n")
        for query, found in (("?state=done", "add"), ("?state=waiting", "write"), ("?q=shop.tasks.write", "write")):
            with self.subTest(query):
                page = self.client.get(LIST + query).content.decode()
                self.assertEqual(
                    ("shop.tasks.add" in page, "shop.tasks.write" in page), (found == "add", found == "write")
                )

    def test_a_page_of_a_job_shows_arguments_as_text(self) -> None:
        """Also those that look like markup."""
        result = tasks.write_and_fail.enqueue("<script>alert(1)</script>")
        with self.assertLogs():
            run_ripe()
        page = self.client.get(reverse("admin:pgq_job_change", args=[result.id])).content.decode()
        self.assertIn("&lt;script&gt;alert(1)&lt;/script&gt;", page)
        self.assertNotIn("<script>alert", page)
        self.assertIn("LookupError", page)
        self.assertNotIn('name="_save"', page)

    def test_arguments_that_are_nested_deep_are_not_laid_out(self) -> None:
        """Before each number there would be hundreds of spaces."""
        args: list[object] = [1] * 10_000
        for _ in range(200):
            args = [args]
        job = pgq.Queue(connection.connection).enqueue("deep", args)
        page = self.client.get(reverse("admin:pgq_job_change", args=[job.id])).content.decode()
        self.assertIn("1, 1, 1", page)

    def test_a_page_of_a_job_in_a_sensitive_queue_shows_no_arguments_and_errors(self) -> None:
        """Django has no way to ask for them."""
        result = tasks.write_and_fail.enqueue("a secret")
        with self.assertLogs():
            run_ripe()
        pgq.Queue(connection.connection).configure("default", {"sensitive": True})
        page = self.client.get(reverse("admin:pgq_job_change", args=[result.id])).content.decode()
        self.assertIn("shop.tasks.write_and_fail", page)
        self.assertNotIn("a secret", page)
        self.assertNotIn("LookupError", page)

    def test_the_list_is_not_filtered_by_arguments(self) -> None:
        """Those of a sensitive queue could be guessed, letter by letter."""
        tasks.write_and_fail.enqueue("a secret")
        pgq.Queue(connection.connection).configure("default", {"sensitive": True})
        for lookup in ("args__icontains=secret", "args__args__0__startswith=a", "errors__icontains=a", "group_key=a"):
            with self.assertLogs("django.security", "ERROR"):
                self.assertEqual(self.client.get(f"{LIST}?{lookup}").status_code, 400, lookup)
        self.assertEqual(self.client.get(f"{LIST}?enqueued_at__gte=2020-01-01").status_code, 200)

    def test_nothing_can_be_changed(self) -> None:
        """Not even by a superuser."""
        result = tasks.add.enqueue(1)
        self.client.force_login(User.objects.create_superuser("root"))
        for path in (f"{LIST}add/", f"{LIST}{result.id}/delete/"):
            self.assertEqual(self.client.get(path).status_code, 403)
        self.assertEqual(self.client.post(f"{LIST}{result.id}/change/", {"state": "done"}).status_code, 403)
        self.assertNotIn("delete_selected", self.client.get(LIST).content.decode())
        with self.assertRaisesMessage(TypeError, "a job of pgq is only read"):
            Job.objects.get().delete()
        with self.assertRaisesMessage(TypeError, "a job of pgq is only read"):
            Job.objects.get().save()

    def test_without_the_permission_there_is_no_list(self) -> None:
        """There is only that to view."""
        self.user.user_permissions.clear()
        self.assertEqual(self.client.get(LIST).status_code, 403)
        codes = Permission.objects.filter(content_type__app_label="pgq").values_list("codename", flat=True)
        self.assertEqual(list(codes), ["view_job"])

    def test_many_jobs_are_not_counted(self) -> None:
        """The pages are those of the first."""
        pgq.Queue(connection.connection).enqueue_many({"kind": "k", "args": n} for n in range(30))
        for thing, name, value in ((admin, "MOST", 20), (admin.JobAdmin, "list_per_page", 10)):
            self.addCleanup(setattr, thing, name, getattr(thing, name))
            setattr(thing, name, value)
        with self.assertNumQueries(6) as queries:
            self.assertIn("20 jobs", self.client.get(LIST).content.decode())
        self.assertTrue(any("LIMIT 20" in query["sql"] for query in queries.captured_queries))
