"""A sleep that a signal, or another thread, ends at once."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


class Bell:
    """Sleep until somebody rings. A ring while nobody sleeps ends the next sleep."""

    def __init__(self) -> None:
        self._ear, self._clapper = socket.socketpair()
        self._ear.setblocking(False)
        self._clapper.setblocking(False)

    def ring(self) -> None:
        """End the sleep, if anybody is left to sleep; may be called from a signal handler or any thread."""
        with contextlib.suppress(OSError):
            self._clapper.send(b"\0")

    def sleep(self, seconds: float, *files: int) -> None:
        """Sleep, but no longer than to the next ring, or until there is something to read from one of the files."""
        select.select([self._ear.fileno(), *files], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            while self._ear.recv(4096):
                pass

    def close(self) -> None:
        """Give the sockets back."""
        self._ear.close()
        self._clapper.close()

    @contextlib.contextmanager
    def on_signals(self, stop: Callable[[], None]) -> Iterator[None]:
        """
        Call ``stop`` at the first SIGTERM or SIGINT; the second one does what it does by default.

        Outside the main thread, where Python delivers no signals, do nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _frame: FrameType | None) -> None:
            signal.signal(number, before[number] or signal.SIG_DFL)
            stop()

        before: dict[int, signal.Handlers | Callable[[int, FrameType | None], Any] | int | None] = {
            number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
        }
        # The byte is written by the C handler: a signal that comes just before select() would otherwise be noticed
        # only after the sleep.
        wakeup_fd = signal.set_wakeup_fd(self._clapper.fileno(), warn_on_full_buffer=False)
        try:
            for number in before:
                signal.signal(number, handle)
            yield
        finally:
            for number, previous in before.items():
                signal.signal(number, previous or signal.SIG_DFL)
            signal.set_wakeup_fd(wakeup_fd)
