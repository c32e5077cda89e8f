"""Tasks with the options of pgq, and their priorities."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from django.utils.module_loading import autodiscover_modules

from pgq.convert import Interval
from pgq.django.framework import Task
from pgq.handlers import Exceptions
from pgq.new_job import OnDuplicate

# What a task may say about the enqueue of its jobs; None leaves it to the backend's OPTIONS, or to pgq.
ENQUEUE: Final = (
    "max_retries", "backoff", "backoff_cap", "dedup", "dedup_key", "dedup_for", "on_duplicate", "group_key",
)  # fmt: skip
# What it may say about its calls.
CALL: Final = ("timeout", "lease", "retry_on", "cancel_on")
DEFAULT_PRIORITY: Final = 5


@dataclass(frozen=True, kw_only=True)
class PgqTask(Task):
    """
    A task whose decorator and whose ``using`` also take options of pgq.

    ``max_retries``, ``backoff``, ``backoff_cap``, ``dedup``, ``dedup_key``, ``dedup_for``, ``on_duplicate`` and
    ``group_key`` are those of ``pgq.Queue.enqueue``; ``timeout``, ``lease``, ``retry_on`` and ``cancel_on`` those of
    ``pgq.handler``. With ``transaction`` the function is called in a transaction of Django's connection that also ends
    the job.
    """

    max_retries: int | None = None
    backoff: Interval | None = None
    backoff_cap: Interval | None = None
    dedup: bool | None = None
    dedup_key: str | None = None
    dedup_for: Interval | None = None
    on_duplicate: OnDuplicate | None = None
    group_key: str | None = None
    timeout: float | timedelta | None = None
    lease: timedelta | None = None
    retry_on: type[BaseException] | Exceptions | None = None
    cancel_on: type[BaseException] | Exceptions = ()
    transaction: bool = False

    def using(self, **changes: Any) -> PgqTask:
        """
        Return the task with other values: those that the framework's tasks have, and of the options of pgq those about
        enqueuing. A value that is None changes nothing.
        """
        options = {name: changes.pop(name) for name in ENQUEUE if name in changes}
        # Not super(), which dataclasses with slots do not support in all versions of Python.
        changed: PgqTask = Task.using(self, **changes)
        return replace(changed, **{name: value for name, value in options.items() if value is not None})


def level(priority: int) -> int:
    """
    Return the priority of pgq, from 0 (first) to 9, for one of the framework's, from 100 (first) to -100.

    0 becomes 5, the default of pgq. What is greater comes before it, in five levels, and what is less after it, in
    four.
    """
    if priority > 0:
        return (100 - priority) // 20
    return DEFAULT_PRIORITY + (24 - priority) // 25


def discover() -> None:
    """Import the module ``tasks`` of each installed app, where it has one."""
    autodiscover_modules("tasks")


def find_task(path: str) -> Task | None:
    """
    Return the task with this path; None if no module has it that is imported, or is the ``tasks`` of an app.

    Nothing else is imported, because the path may come from the database.
    """
    found = _imported(path)
    if found is None:
        discover()
        found = _imported(path)
    return found


def _imported(path: str) -> Task | None:
    module, _, name = path.rpartition(".")
    while module and module not in sys.modules:
        module, _, outer = module.rpartition(".")
        name = f"{outer}.{name}"
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found if isinstance(found, Task) else None


def imported_tasks() -> dict[str, Task]:
    """Return the tasks of all modules that are imported, by path. Several tasks may share a function and its path."""
    tasks = {}
    for module in list(sys.modules.values()):
        for value in list(getattr(module, "__dict__", {}).values()):
            # By type, because isinstance would make a lazy object look for its value.
            if issubclass(type(value), Task):
                path = value.module_path
                tasks[path] = _imported(path) or value
    return tasks
