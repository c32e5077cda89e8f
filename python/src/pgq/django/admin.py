"""A list of jobs in Django's admin, which changes nothing."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.utils.functional import cached_property

from pgq.django.models import Job
from pgq.django.results import STATUS, shown

# So many jobs can be paged through; to count more would take seconds.
MOST = 10_000
# What is not shown of a sensitive queue.
HIDDEN = ("args", "result", "errors", "context", "group_key")


class FirstPages(Paginator):
    """The pages of the first jobs of a query."""

    @cached_property
    def count(self) -> int:
        """The number of jobs, or MOST."""
        return int(self.object_list[:MOST].count())


class StateFilter(admin.SimpleListFilter):
    """The states, which need no look at the jobs."""

    title = parameter_name = "state"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        """Return all states."""
        return [(state, state) for state in STATUS]

    def queryset(self, request: Any, queryset: Any) -> Any:
        """Return the jobs in the state that was chosen."""
        return queryset if self.value() is None else queryset.filter(state=self.value())


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):
    """Jobs, for users with the permission ``pgq.view_job``."""

    list_display = ("id", "state", "queue", "kind", "priority", "attempt", "ripe_at", "worker", "ended_at")
    list_filter = (StateFilter,)
    search_fields = ("=queue", "=kind")
    ordering = ("-id",)
    paginator = FirstPages
    show_full_result_count = False
    fields = (
        "id", "state", "queue", "kind", "args_text", "priority", "group_key", "attempt", "max_retries", "enqueued_at",
        "ripe_at", "worker", "claimed_at", "lease_until", "ended_at", "result_text", "errors_text", "context_text",
    )  # fmt: skip
    readonly_fields = fields

    def get_queryset(self, request: Any) -> Any:
        """Return the jobs without what may be long, which only the page of one job shows."""
        jobs = super().get_queryset(request)
        if request.resolver_match is not None and "object_id" in request.resolver_match.kwargs:
            return jobs
        return jobs.defer("args", "result", "errors", "context")

    def get_object(self, request: Any, object_id: str, from_field: str | None = None) -> Job | None:
        """Return a job; of a sensitive queue, without what a reader does not see."""
        job: Job | None = super().get_object(request, object_id, from_field)
        if job is not None and job.sensitive:
            for name in HIDDEN:
                setattr(job, name, None)
        return job

    def lookup_allowed(self, lookup: str, value: Any, request: Any) -> bool:
        """Refuse filters in the address by what is not shown: they would be a way to guess it."""
        return lookup.partition("__")[0] not in HIDDEN and bool(super().lookup_allowed(lookup, value, request))

    def has_add_permission(self, request: Any) -> bool:
        """Refuse."""
        return False

    def has_change_permission(self, request: Any, obj: Job | None = None) -> bool:
        """Refuse."""
        return False

    def has_delete_permission(self, request: Any, obj: Job | None = None) -> bool:
        """Refuse."""
        return False

    @admin.display(description="args")
    def args_text(self, job: Job) -> str:
        """Return the arguments as text."""
        return shown(job.args)

    @admin.display(description="result")
    def result_text(self, job: Job) -> str:
        """Return the result as text."""
        return shown(job.result)

    @admin.display(description="context")
    def context_text(self, job: Job) -> str:
        """Return the context as text."""
        return shown(job.context)

    @admin.display(description="errors")
    def errors_text(self, job: Job) -> str:
        """Return the errors as text, the newest first."""
        return "\n\n".join(
            f"attempt {error['attempt']}, {error['at']}, {error['worker']}\n{error['error']}"
            for error in job.errors or ()
        )
