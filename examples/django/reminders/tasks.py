"""The task that sends a reminder. `python manage.py pgq_worker`"""

import json
import urllib.request
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from reminders.models import Reminder

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task


@task(transaction=True, max_retries=5, backoff=timedelta(seconds=30), timeout=20, cancel_on=Reminder.DoesNotExist)
def remind(key: str) -> None:
    """
    Send a reminder. What is written here commits with the end of the job, and is undone when a line raises; the next
    attempt comes after half a minute, then after a minute, after two, ... A reminder that was deleted is not sent.
    """
    reminder = Reminder.objects.select_for_update().get(pk=key)
    reminder.sent_at = timezone.now()
    reminder.save()
    send(reminder.text, key)


def send(text: str, key: str) -> None:
    """Call the chat. A call that may have arrived is repeated with the same key, by which the chat knows it."""
    body = json.dumps({"text": text}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    request = urllib.request.Request(settings.REMINDERS_URL, body, headers)
    urllib.request.urlopen(request, timeout=10).close()
