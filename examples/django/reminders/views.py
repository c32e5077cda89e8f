"""Reminders in a browser."""

from datetime import timedelta
from uuid import uuid4

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from pgq.django.models import Job
from reminders.models import Reminder
from reminders.tasks import remind

YEAR = 365 * 24 * 60


class ReminderForm(forms.Form):
    """A new reminder. The form brings its key, so one that is sent twice adds one."""

    key = forms.UUIDField(widget=forms.HiddenInput, initial=uuid4)
    text = forms.CharField(label="Remind me of")
    minutes = forms.FloatField(label="in minutes", min_value=0, max_value=YEAR, initial=120)

    def add(self) -> None:
        """Add the reminder and its task, unless they were added already."""
        given = self.cleaned_data
        due = timezone.now() + timedelta(minutes=given["minutes"])
        reminder, is_new = Reminder.objects.get_or_create(
            key=given["key"], defaults={"text": given["text"], "due": due}
        )
        if is_new:
            reminder.job_id = int(remind.using(run_after=due).enqueue(str(reminder.key)).id)
            reminder.save()


def reminders(request: HttpRequest) -> HttpResponse:
    """Show the reminders, each with its job, and a form for a new one; or add one."""
    form = ReminderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        form.add()
        return redirect("reminders")
    newest = Reminder.objects.all()[:50]
    jobs = Job.objects.in_bulk([reminder.job_id for reminder in newest])
    rows = [(reminder, jobs.get(reminder.job_id)) for reminder in newest]
    return render(request, "reminders.html", {"form": form, "rows": rows}, status=400 if form.errors else 200)
