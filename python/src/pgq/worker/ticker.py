"""A thread that looks after something, again and again, while there is something to look after."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Ticker:
    """Call a function every so many seconds, in a thread of its own, from ``resume`` to ``pause``."""

    def __init__(self, function: Callable[[], None], seconds: float) -> None:
        self._function = function
        self._seconds = seconds
        self._going = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def resume(self) -> None:
        """Tick; cheap when it ticks already."""
        if not self._going.is_set():
            self._going.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pgq-ticker", daemon=True)
                self._thread.start()

    def pause(self) -> None:
        """Do not tick; a call that has begun goes on."""
        self._going.clear()

    def close(self) -> None:
        """End the thread, after a call that has begun."""
        self._closed.set()
        self._going.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._closed.wait(self._seconds):
            self._going.wait()
            if not self._closed.is_set():
                self._function()
