"""What a worker calls for the job of a task."""

from __future__ import annotations

from collections.abc import Callable
from traceback import format_exception
from typing import Any

from django.apps import apps
from django.db import DatabaseError, connections, transaction
from django.utils import timezone

from pgq import handlers as registry
from pgq.convert import NULL
from pgq.django.backend import PgqBackend, alias_of, backends
from pgq.django.framework import (
    Task,
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultStatus,
    normalize_json,
    task_finished,
    task_started,
)
from pgq.django.results import arguments, described, kept_in, local, task_error, workers
from pgq.django.task import CALL, discover, imported_tasks
from pgq.handlers import Handlers
from pgq.job import Job, decode
from pgq.worker.judge import judge
from pgq.worker.outcomes import Cancelled, Failed


def register(handlers: Handlers = registry.default) -> None:
    """
    Register the tasks of all modules that are imported, and of the modules ``tasks`` of all apps, as handlers; each
    has its path as kind.
    """
    discover()
    for path, task in imported_tasks().items():
        if handlers.get(path) is None:
            options = {name: getattr(task, name) for name in CALL if hasattr(task, name)}
            handlers.handler(path, **options)(handler_of(task, path, handlers))


def handler_of(task: Task, path: str, handlers: Handlers) -> Callable[[Job], Any]:
    """Return the handler of a task."""

    def run(job: Job) -> Any:
        backend, result = begun(task, job)
        task_started.send(type(backend), task_result=result)
        try:
            returned = call(task, job, backend, result)
        except BaseException as error:
            if type(error) is KeyboardInterrupt:
                raise
            handler = handlers.get(path)
            assert handler is not None
            outcome = judge(handler, job, error, raised_by_handler=True, seconds=0)
            is_last = job.attempt > job.max_retries or not getattr(outcome, "retry", True) or job.cancelled
            if isinstance(outcome, Cancelled) or (isinstance(outcome, Failed) and is_last):
                kind = type(error)
                formatted = TaskError(
                    exception_class_path=f"{kind.__module__}.{kind.__qualname__}",
                    traceback="".join(format_exception(error)),
                )
                result.errors.append(formatted)
                finish(backend, result, TaskResultStatus.FAILED)
            raise
        object.__setattr__(result, "_return_value", returned)
        finish(backend, result, TaskResultStatus.SUCCESSFUL)
        return None if job._completed else stored(returned)

    run.__qualname__ = path
    return run


def begun(task: Task, job: Job) -> tuple[PgqBackend, TaskResult]:
    """Return the backend of a job, and the result of its task at the beginning of an attempt."""
    kept = kept_in(None if job.context is None else decode(job.context))
    known = backends()
    backend = known[alias_of(kept, task.backend if task.backend in known else next(iter(known)))]
    earlier = failures(backend, job) if job.attempt > 1 else []
    args, kwargs = arguments(job.args)
    now = timezone.now()
    result = TaskResult(
        task=described(task, job.queue, kept, backend.alias),
        id=str(job.id),
        status=TaskResultStatus.RUNNING,
        enqueued_at=local(job.enqueued_at),
        started_at=now,
        last_attempted_at=now,
        finished_at=None,
        args=args,
        kwargs=kwargs,
        backend=backend.alias,
        errors=[task_error(error["error"] or "") for error in reversed(earlier)],
        worker_ids=workers(earlier, job.attempt, job.worker),
    )
    return backend, result


def failures(backend: PgqBackend, job: Job) -> list[dict[str, Any]]:
    """Return the errors of a job's earlier attempts; none if the role may not read them."""
    jobs = apps.get_model("pgq", "Job").objects.using(backend.database)
    try:
        with transaction.atomic(backend.database):
            errors = jobs.filter(pk=job.id).values_list("errors", flat=True).first()
    except DatabaseError:
        return []
    return [error for error in errors or () if "declined" not in error]


def call(task: Task, job: Job, backend: PgqBackend, result: TaskResult) -> Any:
    """Call the function of a task, and return its value as JSON has it. Raises TypeError if that is not in JSON."""
    context = [TaskContext(task_result=result)] if task.takes_context else []
    if not getattr(task, "transaction", False):
        return normalize_json(task.call(*context, *result.args, **result.kwargs))
    with transaction.atomic(backend.database):
        returned = normalize_json(task.call(*context, *result.args, **result.kwargs))
        job.complete(connections[backend.database].connection, stored(returned))
    return returned


def stored(returned: Any) -> Any:
    """Return what is kept as the result of a job: always something, so that the job is kept, too."""
    return NULL if returned is None else returned


def finish(backend: PgqBackend, result: TaskResult, status: TaskResultStatus) -> None:
    """Tell the receivers of the signal how a task has ended."""
    object.__setattr__(result, "status", status)
    object.__setattr__(result, "finished_at", timezone.now())
    task_finished.send(type(backend), task_result=result)
