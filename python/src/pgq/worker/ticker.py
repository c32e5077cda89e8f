"""A thread that calls a function at regular intervals."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pgq.process import logs


class Ticker:
    """Call a function every few milliseconds from ``resume`` to ``pause``, in a thread of its own."""

    def __init__(self, function: Callable[[], None], seconds: float) -> None:
        self._function = function
        self._seconds = seconds
        self._running = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_running(self) -> bool:
        """Whether the ticker calls its function."""
        return self._running.is_set()

    def resume(self) -> None:
        """Begin to tick; cheap when it ticks already."""
        if not self._running.is_set():
            self._running.set()
            if self._thread is None:
                self._thread = threading.Thread(target=logs.continued(self._run), name="pgq-ticker", daemon=True)
                self._thread.start()

    def pause(self) -> None:
        """Stop ticking; a call that has begun goes on."""
        self._running.clear()

    def close(self) -> None:
        """End the thread, after a call that has begun."""
        self._closed.set()
        self._running.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._closed.wait(self._seconds):
            self._running.wait()
            if not self._closed.is_set():
                self._function()
