"""What serves the pages of pgq beside the project: who gets there, and below which path."""

from __future__ import annotations

from typing import Any
from unittest import mock

from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.test import TestCase

from pgq.django.web import beside


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """Stand in for the pages: reply with the path that is left below the one where they are."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['root_path']} {scope['path']}".encode()})


async def project(scope: Any, receive: Any, send: Any) -> None:
    """Stand in for the project."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Web(TestCase):
    """The pages are for those who may use the admin."""

    def setUp(self) -> None:
        """Keep the connection in which the test's transaction is open, as Django's own client does."""
        self.enterContext(mock.patch("pgq.django.web.close_old_connections"))

    def get(self, path: str, root_path: str = "", **options: Any) -> tuple[int, dict[bytes, bytes], str]:
        """Return the status, the headers and the text of a reply, to a client with the cookies of the test's."""
        cookies = "; ".join(f"{name}={morsel.value}" for name, morsel in self.client.cookies.items())
        scope = {
            "type": "http", "method": "GET", "scheme": "http", "path": path, "query_string": b"a=1",
            "root_path": root_path, "headers": [(b"host", b"testserver"), (b"cookie", cookies.encode())],
            "http_version": "1.1",
        }  # fmt: skip
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        application = beside(project, pages, path="/jobs", **options)
        async_to_sync(application)(scope, receive, send)
        text = b"".join(message.get("body", b"") for message in sent[1:])
        return sent[0]["status"], dict(sent[0]["headers"]), text.decode()

    def test_staff_gets_there(self) -> None:
        """The pages are told where they are."""
        self.client.force_login(User.objects.create_user("ann", is_staff=True))
        status, _, text = self.get("/jobs/queues")
        self.assertEqual((status, text), (200, "/jobs /jobs/queues"))
        self.assertEqual(self.get("/jobs")[0], 200)

    def test_a_project_below_a_path_of_a_proxy(self) -> None:
        """The server is told the path, and so are the pages."""
        self.client.force_login(User.objects.create_user("ann", is_staff=True))
        status, _, text = self.get("/app/jobs/queues", root_path="/app")
        self.assertEqual((status, text), (200, "/app/jobs /app/jobs/queues"))
        self.assertEqual(self.get("/app/admin/", root_path="/app")[0], 204)

    def test_another_user_is_refused(self) -> None:
        """Unless the project says otherwise."""
        self.client.force_login(User.objects.create_user("bob"))
        self.assertEqual(self.get("/jobs/")[0], 403)
        self.assertEqual(self.get("/jobs/", may_see=lambda user: user.username == "bob")[0], 200)

    def test_a_stranger_is_sent_to_the_login(self) -> None:
        """And comes back from there."""
        status, headers, text = self.get("/jobs/queues")
        self.assertEqual((status, text), (302, ""))
        self.assertIn(b"next=/jobs/queues%3Fa%3D1", headers[b"location"])

    def test_all_else_is_of_the_project(self) -> None:
        """Also a path that begins with the same letters."""
        self.assertEqual(self.get("/admin/login/")[0], 204)
        self.assertEqual(self.get("/jobsite")[0], 204)
