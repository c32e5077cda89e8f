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
    """A call in its own thread, started at once; ``result`` returns or raises what the call did."""

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
        """Return whether the call still runs."""
        return self._thread.is_alive()

    def result(self, timeout: float = 60.0) -> Any:
        """Wait for the end of the call."""
        result = self._future.result(timeout)
        self._thread.join(timeout)
        return result


def eventually(condition: Callable[[], T], what: str = "it happens", seconds: float = 30.0) -> T:
    """Return the first true result of a condition; fail the test if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.005)
    return result
