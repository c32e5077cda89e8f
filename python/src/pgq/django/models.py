"""The views of pgq as models, which Django only reads."""

from __future__ import annotations

from typing import NoReturn

from django.db import models


class ReadOnly(models.Model):
    """A row of a view."""

    class Meta:
        """Django makes no table, and no permissions but that to view."""

        abstract = True
        managed = False
        default_permissions = ("view",)

    def save(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse: a job is changed by the functions of pgq."""
        raise TypeError(f"a {self._meta.verbose_name} of pgq is only read: call a method of pgq.Queue")

    def delete(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse, as ``save`` does."""
        self.save()


class Job(ReadOnly):
    """A job, of the view pgq_jobs; args, result and errors are NULL to a role that may not read them."""

    id = models.BigIntegerField(primary_key=True)
    state = models.TextField()
    queue = models.TextField()
    kind = models.TextField()
    args = models.JSONField(null=True)
    priority = models.IntegerField()
    ripe_at = models.DateTimeField()
    attempt = models.IntegerField()
    max_retries = models.IntegerField()
    enqueued_at = models.DateTimeField()
    errors = models.JSONField(null=True)
    worker = models.TextField(null=True)
    claimed_at = models.DateTimeField(null=True)
    lease_until = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    result = models.JSONField(null=True)
    context = models.JSONField(null=True)
    group_key = models.TextField(null=True)
    sensitive = models.BooleanField()

    class Meta(ReadOnly.Meta):
        """The view."""

        abstract = False
        db_table = "pgq_jobs"
        verbose_name = "job"
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.pk} {self.kind}"
