"""The backend of pgq in the places of those that Django's tests are written for."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from django.db import connections

from pgq.django.backend import PgqBackend
from pgq.django.testing import run_ripe


class Stored(PgqBackend):
    """In the place of DummyBackend, which only stores tasks: it has a list of them, which can be cleared."""

    def __init__(self, alias: str, params: Any) -> None:
        super().__init__(alias, params)
        self.results: list[Any] = []

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Enqueue, and note the result."""
        result = super().enqueue(task, args, kwargs)
        self.results.append(deepcopy(result))
        return result

    def clear(self) -> None:
        """Remove all jobs."""
        self.results.clear()
        with connections[self.database].cursor() as cursor:
            cursor.execute("DELETE FROM pgq_waiting")


class Eager(PgqBackend):
    """In the place of ImmediateBackend, which runs a task before the enqueue returns."""

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Enqueue the task, run it, and return its result."""
        result = super().enqueue(task, args, kwargs)
        run_ripe(self.database)
        result.refresh()
        return result
