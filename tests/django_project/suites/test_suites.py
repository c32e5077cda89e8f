"""
The tests of Django's backends, each with the backend of pgq in their place.

The package ``tasks`` is that of Django's own tests, which tools/django_suites.py fetches. What does not apply is listed
here, with the reason, and is the only thing that is skipped; test_custom_backend.py has backends of its own.
"""

from __future__ import annotations

from typing import Any, Final
from unittest import skip

from django.conf import settings
from django.test import TestCase, override_settings
from tasks import test_dummy_backend, test_immediate_backend, test_tasks

STORED: Final = "suites.backends.Stored"
EAGER: Final = "suites.backends.Eager"
CLASS: Final = "asserts the class of Django's own backend"
SUPPORTED: Final = "asserts that the backend does not support what that of pgq does"
MEMORY: Final = "changes the stored result in memory"
SYNC: Final = "calls a synchronous method in a coroutine, where Django's connections refuse to work"
CLOCK: Final = "asserts that enqueue() returns the same enqueued_at as get_result(), whose clock is the database's"
MESSAGE: Final = "asserts a message that the backport writes otherwise"
LATER: Final = "tests what the backport does not have"
NOT: Final = {
    "DummyBackendTestCase": {
        "test_using_correct_backend": CLASS,
        "test_refresh_result": MEMORY,
        "test_refresh_result_async": MEMORY,
        "test_get_missing_result": SYNC,
        "test_get_result": CLOCK,
        "test_get_result_async": CLOCK,
    },
    "ImmediateBackendTestCase": {
        "test_using_correct_backend": CLASS,
        "test_cannot_get_result": SUPPORTED,
        "test_cannot_refresh_result": SUPPORTED,
        "test_cannot_pass_run_after": SUPPORTED,
    },
    "TaskTestCase": {
        "test_using_correct_backend": CLASS,
        "test_get_backend": CLASS,
        "test_get_missing_result": SYNC,
        "test_refresh_result": SYNC,
        "test_get_result": CLOCK,
        "test_get_result_async": CLOCK,
    },
}
NOT_IN_BACKPORT: Final = {
    "DummyBackendTestCase": {"test_validate_disallowed_async_task": MESSAGE},
    "TaskTestCase": {
        "test_run_after_in_decorator": MESSAGE,
        "test_pickle_task": LATER,
        "test_pickle_task_result": LATER,
        "test_unpickle_arbitrary_string": LATER,
        "test_unpickle_non_task_object": LATER,
    },
}


def with_pgq(case: Any, tasks: dict[str, dict[str, Any]]) -> Any:
    """Return a case of Django's in a transaction, with these settings, and without what does not apply."""
    left_out = NOT.get(case.__name__, {}) | (NOT_IN_BACKPORT.get(case.__name__, {}) if settings.BACKPORT else {})
    missing = [name for name in left_out if not hasattr(case, name)]
    assert not missing, f"{case.__name__} has no {missing}"
    body = {name: skip(reason)(getattr(case, name)) for name, reason in left_out.items()}
    made = type(case.__name__, (case, TestCase), {"databases": {"default"}, "__module__": __name__, **body})
    return override_settings(TASKS=tasks, USE_TZ=True)(made)


StoredTasks = with_pgq(test_dummy_backend.DummyBackendTestCase, {"default": {"BACKEND": STORED, "QUEUES": []}})
EagerTasks = with_pgq(test_immediate_backend.ImmediateBackendTestCase, {"default": {"BACKEND": EAGER, "QUEUES": []}})
BothTasks = with_pgq(
    test_tasks.TaskTestCase,
    {
        "default": {"BACKEND": STORED, "QUEUES": ["default", "queue_1"]},
        "immediate": {"BACKEND": EAGER, "QUEUES": []},
        "missing": {"BACKEND": "does.not.exist"},
    },
)
