"""The backend for tasks: it enqueues them as jobs, on Django's connection, and reads what has become of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connections, router
from django.utils import timezone

from pgq import statement, tracing
from pgq.django.framework import (
    DEFAULT_TASK_BACKEND_ALIAS,
    DEFAULT_TASK_PRIORITY,
    BaseTaskBackend,
    InvalidTaskBackend,
    Task,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultStatus,
    normalize_json,
    task_backends,
    task_enqueued,
)
from pgq.django.results import kept_in, task_result
from pgq.django.task import ENQUEUE, PgqTask, level
from pgq.errors import translated

# The key of the context under which a job keeps what of its task no column has.
CONTEXT: Final = "django"
# Those of OPTIONS: defaults for all tasks, and the connection.
OPTIONS: Final = {"database", "max_retries", "backoff", "backoff_cap"}


class PgqBackend(BaseTaskBackend):
    """
    Enqueue tasks as jobs of pgq, in the transaction that Django's connection is in.

    ``OPTIONS`` may have ``database``, an alias of DATABASES (without it the routers decide), and ``max_retries``,
    ``backoff`` and ``backoff_cap`` for tasks that have none of their own. Without ``max_retries`` a task is tried once,
    as in the other backends; None leaves it to the setting of the queue.
    """

    task_class = PgqTask
    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    @property
    def database(self) -> str:
        """The alias of the database that has the jobs."""
        alias: str | None = self.options.get("database")
        return alias or str(router.db_for_write(apps.get_model("pgq", "Job")))

    def enqueue(self, task: Task, args: Any, kwargs: Any) -> TaskResult:
        """Enqueue a task; raises InvalidTask, and the errors of ``pgq.Queue.enqueue``."""
        self.validate_task(task)
        payload = normalize_json({"args": args, "kwargs": kwargs})
        job_id = self._enqueue(task, payload)
        result = TaskResult(
            task=task,
            id=str(job_id),
            status=TaskResultStatus.READY,
            # By the clock of this process, as in the other backends; that of the job is the database's.
            enqueued_at=timezone.now(),
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=payload["args"],
            kwargs=payload["kwargs"],
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        task_enqueued.send(type(self), task_result=result)
        return result

    def get_result(self, result_id: str) -> TaskResult:
        """Return what has become of a task. Raises TaskResultDoesNotExist for what is no task, or is gone."""
        jobs = apps.get_model("pgq", "Job").objects.using(self.database)
        found = jobs.filter(pk=int(result_id)).first() if str(result_id).isdecimal() else None
        result = None if found is None else task_result(found, alias_of(kept_in(found.context), self.alias))
        if result is None:
            raise TaskResultDoesNotExist(result_id)
        return result

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Return what is wrong with the settings of this backend."""
        from pgq.django.checks import check_backend  # noqa: PLC0415 - the checks need this module

        return [*super().check(**kwargs), *check_backend(self)]

    def _enqueue(self, task: Task, payload: Mapping[str, Any]) -> int:
        options: dict[str, Any] = {"max_retries": 0}
        options |= {name: self.options[name] for name in ENQUEUE if name in self.options}
        own = {name: getattr(task, name, None) for name in ENQUEUE}
        options |= {name: value for name, value in own.items() if value is not None}
        # A key asks for it. Else two equal tasks are two jobs.
        options.setdefault("dedup", options.get("dedup_key") is not None)
        sql, params = statement(
            task.module_path,
            payload,
            queue=task.queue_name,
            ripe_at=None if task.run_after is None else aware(task.run_after),
            priority=level(task.priority),
            context=self._context(task),
            **options,
        )
        connection = connections[self.database]
        if connection.vendor != "postgresql":
            raise ImproperlyConfigured(f'the database "{self.database}" is not PostgreSQL, and has no jobs of pgq')
        with connection.cursor() as cursor:
            try:
                cursor.execute(sql, params)
            except DatabaseError as error:
                raise_known(connection, sql, error)
            job_id: int = cursor.fetchone()[0]
        return job_id

    def _context(self, task: Task) -> dict[str, Any] | None:
        """Return what of a task is in no other column of its job, and the current trace; None leaves that to pgq."""
        kept: dict[str, Any] = {}
        if task.priority != DEFAULT_TASK_PRIORITY:
            kept["priority"] = task.priority
        if task.run_after is not None:
            kept["run_after"] = aware(task.run_after).isoformat()
        if self.alias != DEFAULT_TASK_BACKEND_ALIAS:
            kept["backend"] = self.alias
        trace = tracing.current() if kept and tracing.is_on() else None
        return {**(trace or {}), CONTEXT: kept} if kept else None


def aware(at: datetime) -> datetime:
    """Return a time with its zone; without USE_TZ Django's times are those of TIME_ZONE."""
    return at if timezone.is_aware(at) else timezone.make_aware(at)


def raise_known(connection: Any, query: str, error: DatabaseError) -> None:
    """Raise the error of pgq that stands behind one of Django's, or else Django's."""
    cause = error.__cause__
    if cause is not None:
        try:
            with translated(connection.connection, query):
                raise cause
        except type(cause):
            pass
    raise error


def alias_of(kept: Mapping[str, Any], default: str) -> str:
    """Return the alias of the backend of a job whose context has kept this; ``default`` if that is not known here."""
    alias = kept.get("backend", DEFAULT_TASK_BACKEND_ALIAS)
    return alias if alias in backends() else default


def backends() -> dict[str, PgqBackend]:
    """Return the backends of this class, by alias; those that cannot be made are no concern of their jobs."""
    found = {}
    for alias in getattr(settings, "TASKS", {}):
        with suppress(InvalidTaskBackend):
            backend = task_backends[alias]
            if isinstance(backend, PgqBackend):
                found[alias] = backend
    return found
