"""Jobs as the results of tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.utils import timezone

from pgq.django.framework import (
    DEFAULT_TASK_PRIORITY,
    Task,
    TaskError,
    TaskResult,
    TaskResultStatus,
)
from pgq.django.task import find_task

if TYPE_CHECKING:
    from pgq.django.models import Job

STATUS: Final = {
    "waiting": TaskResultStatus.READY,
    "blocked": TaskResultStatus.READY,
    "running": TaskResultStatus.RUNNING,
    "done": TaskResultStatus.SUCCESSFUL,
    "dead": TaskResultStatus.FAILED,
    "cancelled": TaskResultStatus.FAILED,
}
TRACEBACK: Final = "Traceback (most recent call last):\n"
# An exception as Python writes it: the path of its class, and a message.
EXCEPTION: Final = re.compile(r"(?P<path>[^\W\d][\w.<>]*)(?::\s|\s*\Z)")
# Characters of JSON that are laid out for people. The spaces in longer JSON, nested deep, could fill the memory.
LAID_OUT: Final = 20_000
# The class of an error that is no exception of a task, such as that of a worker that is gone.
NO_EXCEPTION: Final = "pgq.Error"


def described(task: Task, queue: str, kept: Mapping[str, Any], alias: str) -> Task:
    """Return the task of a job: with its queue, and with the values that its context has kept."""
    run_after = kept.get("run_after")
    return replace(
        task,
        queue_name=queue,
        priority=kept.get("priority", DEFAULT_TASK_PRIORITY),
        run_after=None if run_after is None else local(datetime.fromisoformat(run_after)),
        backend=alias,
    )


def kept_in(context: Any) -> Mapping[str, Any]:
    """Return what the context of a job says about its task."""
    kept = context.get("django") if isinstance(context, dict) else None
    return kept if isinstance(kept, dict) else {}


def arguments(args: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and the keyword arguments of a task that a job has; it may come from another client."""
    given = args if isinstance(args, dict) else {}
    return list(given.get("args", ())), dict(given.get("kwargs", {}))


def task_result(job: Job, alias: str) -> TaskResult | None:
    """Return the result of a job's task; None for a job whose kind is no task. Raises PermissionDenied."""
    task = find_task(job.kind)
    if task is None:
        return None
    if job.args is None:
        raise PermissionDenied(f"the role of this connection may not read job {job.pk}: pgq_grant it admin")
    kept = kept_in(job.context)
    args, kwargs = arguments(job.args)
    failed = [error for error in job.errors if "declined" not in error]
    attempted_at = [datetime.fromisoformat(error["at"]) for error in failed]
    if job.claimed_at is not None:
        attempted_at.append(
            timezone.make_aware(job.claimed_at) if timezone.is_naive(job.claimed_at) else job.claimed_at
        )
    result = TaskResult(
        task=described(task, job.queue, kept, alias),
        id=str(job.pk),
        status=STATUS[job.state],
        enqueued_at=job.enqueued_at,
        started_at=local(min(attempted_at, default=None)),
        last_attempted_at=local(max(attempted_at, default=None)) if job.claimed_at is None else job.claimed_at,
        finished_at=job.ended_at,
        args=args,
        kwargs=kwargs,
        backend=alias,
        errors=[task_error(error["error"] or "") for error in reversed(failed)],
        worker_ids=workers(failed, job.attempt, job.worker),
    )
    object.__setattr__(result, "_return_value", job.result)
    return result


def workers(errors: Sequence[Mapping[str, Any]], attempt: int, last: str | None) -> list[str]:
    """
    Return the workers of all attempts, one for each; an empty name stands for one that is not known any longer.

    The newest ten errors and the row of the job tell them.
    """
    names = {error["attempt"]: error["worker"] for error in errors}
    if last is not None:
        names[attempt] = last
    return [names.get(number) or "" for number in range(1, attempt + 1)]


def task_error(text: str) -> TaskError:
    """
    Return an error as the framework has it.

    The text is as the worker writes it: the exception, an empty line, and the traceback, perhaps cut at its beginning.
    """
    message, mark, frames = text.partition(f"\n\n{TRACEBACK}")
    if not mark:
        message, _, frames = text.partition("\n\n")
    match = EXCEPTION.match(message)
    path = NO_EXCEPTION if match is None or not frames else match["path"]
    if "." not in path:
        path = f"builtins.{path}"
    return TaskError(exception_class_path=path, traceback=f"{mark.lstrip()}{frames}{message}\n")


def local(at: datetime | None) -> datetime | None:
    """Return a time as Django has it: aware with USE_TZ, and otherwise in TIME_ZONE, without a zone."""
    if at is None or settings.USE_TZ:
        return at
    naive: datetime = timezone.make_naive(at)
    return naive


def shown(value: Any) -> str:
    """Return a value of JSON as text for people."""
    if value is None:
        return ""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) > LAID_OUT else json.dumps(value, indent=2, ensure_ascii=False)
