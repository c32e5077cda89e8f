"""Calls in threads, and waiting for conditions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


class Thread:
    """A call in a thread of its own, begun at once; ``result`` is what it returned or raised."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._future: Future[Any] = Future()

        def run() -> None:
            try:
                self._future.set_result(function(*args, **kwargs))
            except BaseException as error:
                self._future.set_exception(error)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Whether the call still runs."""
        return self._thread.is_alive()

    def result(self, timeout: float = 60.0) -> Any:
        """Wait for the end of the call."""
        answer = self._future.result(timeout)
        self._thread.join(timeout)
        return answer


def eventually(condition: Callable[[], T], what: str = "it happens", seconds: float = 10.0) -> T:
    """The first true answer of a condition; without one in time the test fails."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.005)
    return answer
