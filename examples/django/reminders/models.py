"""The tables."""

from uuid import uuid4

from django.db import models


class Reminder(models.Model):
    """What to remind of, and when."""

    key = models.UUIDField(primary_key=True, default=uuid4)
    text = models.TextField()
    due = models.DateTimeField(db_index=True)
    job_id = models.BigIntegerField(null=True)
    sent_at = models.DateTimeField(null=True)

    class Meta:
        """The latest come first."""

        db_table = "reminder"
        ordering = ("-due",)
