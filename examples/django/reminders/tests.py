"""Tests that roll back and travel in time. `python manage.py test`"""

from datetime import timedelta
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from django.db import connection
from django.test import TestCase

from pgq.django.models import Job
from pgq.django.testing import run_ripe
from pgq.testing import testkit, time_travel
from reminders.models import Reminder
from reminders.views import ReminderForm

TEA = {"text": "tea", "minutes": "120"}
SEND = "reminders.tasks.send"


class Reminders(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        # This is rolled back after the last test of the class.
        connection.cursor().execute(testkit())

    def setUp(self) -> None:
        self.clock = self.enterContext(time_travel(connection.connection, to="2030-01-01 12:00"))

    def post(self, **given: Any) -> Any:
        return self.client.post("/reminders", {"key": uuid4(), **TEA, **given})

    def page(self) -> str:
        return str(self.client.get("/reminders").content.decode())

    def test_a_form_that_is_sent_twice_adds_one_reminder(self) -> None:
        key = uuid4()
        for _ in range(2):
            self.assertRedirects(self.post(key=key), "/reminders")
        self.assertEqual(Reminder.objects.get().text, "tea")
        job = Job.objects.get()
        self.assertEqual((job.kind, job.state), ("reminders.tasks.remind", "waiting"))
        self.assertEqual(job.ripe_at, Reminder.objects.get().due)
        self.assertInHTML("<td>tea</td><td>01.01.2030 14:00 UTC</td><td>waiting</td>", self.page())

    def test_a_wrong_form_adds_nothing(self) -> None:
        for wrong in ({"text": " "}, {"minutes": "soon"}, {"minutes": "-1"}, {"minutes": "nan"}, {"key": "7"}):
            self.assertEqual(self.post(**wrong).status_code, 400)
        self.assertFalse(Reminder.objects.exists())

    def test_a_request_that_fails_leaves_neither_a_reminder_nor_a_job(self) -> None:
        def fails(form: ReminderForm) -> None:
            add(form)
            self.assertTrue(Reminder.objects.exists())
            raise ZeroDivisionError

        add = ReminderForm.add
        with patch.object(ReminderForm, "add", fails), self.assertRaises(ZeroDivisionError):
            self.post()
        self.assertFalse(Reminder.objects.exists())
        self.assertFalse(Job.objects.exists())

    def test_a_reminder_is_sent_when_it_is_due_until_the_chat_takes_it(self) -> None:
        key = uuid4()
        self.post(key=key)
        with patch(SEND, side_effect=ConnectionRefusedError("the chat is down")) as send:
            self.clock.tick(timedelta(hours=1, minutes=59))
            self.assertEqual(run_ripe(), 0)
            self.clock.tick(timedelta(minutes=1))
            self.assertEqual(run_ripe(), 1)
        send.assert_called_once()
        self.assertIsNone(Reminder.objects.get().sent_at)
        job = Job.objects.get()
        self.assertEqual((job.state, job.attempt), ("waiting", 1))
        self.assertLess(abs(job.ripe_at - Reminder.objects.get().due - timedelta(seconds=30)), timedelta(seconds=3))
        self.assertIn("waiting: ConnectionRefusedError: the chat is down", self.page())

        self.clock.tick(timedelta(minutes=1))
        with patch(SEND) as send:
            self.assertEqual(run_ripe(), 1)
            self.assertEqual(run_ripe(), 0)
        reminder = Reminder.objects.get()
        send.assert_called_once_with("tea", str(key))
        self.assertEqual(reminder.sent_at - reminder.due, timedelta(minutes=1))
        # The browser goes back, and sends the form again.
        self.post(key=key)
        self.assertEqual(Job.objects.get().state, "done")
