"""Stopping: by signal, once to finish, twice to leave; and in the end whatever is left behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any

STOP = (signal.SIGTERM, signal.SIGINT)


def end_within(seconds: float, code: int) -> None:
    """End this process, whatever comes: Python would wait for ever for a thread that a handler has left behind."""
    last = threading.Timer(seconds, os._exit, [code])
    last.daemon = True
    last.start()


class StopSignals:
    """
    Within this context, call ``stop`` at the first SIGTERM or SIGINT, and ``leave`` with the signal's number at the
    second one, or when ``grace`` seconds have passed since the first.

    Both are called in a thread of their own, because the main thread may be in the middle of anything, and Python would
    tell it of a signal only when that is over; ``stop`` also there, before it begins anything else. Outside the main
    thread, where no signals can be had, do nothing. A lifeline, if given, counts as a first signal when it comes to its
    end.
    """

    def __init__(
        self,
        stop: Callable[[], None],
        leave: Callable[[int], None],
        grace: float,
        lifeline: socket.socket | None = None,
    ) -> None:
        self._stop = stop
        self._leave = leave
        self._grace = grace
        self._lifeline = lifeline
        self._before: dict[int, Any] = {}
        self._wakeup = -1
        self._thread: threading.Thread | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._ear, self._mouth = socket.socketpair()
            self._mouth.setblocking(False)
            self._wakeup = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
            # The thread is told by a byte that is written in C.
            self._before = {number: signal.signal(number, lambda *_: self._stop()) for number in STOP}
            self._thread = threading.Thread(target=self._watch, name="pgq-signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup)
        self._mouth.close()
        self._thread.join()
        self._ear.close()

    def _watch(self) -> None:
        first: int | None = None
        leave_at = float("inf")
        lifeline = [self._lifeline] if self._lifeline is not None else []
        while True:
            left = None if first is None else max(0.0, leave_at - monotonic())
            ready, _, _ = select.select([self._ear, *lifeline], [], [], left)
            if self._ear in ready:
                numbers = self._ear.recv(4096)
                if not numbers:
                    return
                stops = [number for number in numbers if number in STOP]
            else:
                stops = []
            for one in lifeline:
                # Nobody writes to it: it has come to its end, and so has who held the other.
                if one in ready:
                    lifeline = []
                    stops.append(signal.SIGTERM)
            for number in stops:
                if first is None:
                    first, leave_at = number, monotonic() + self._grace
                    self._stop()
                else:
                    self._leave(number)
            if first is not None and monotonic() >= leave_at:
                self._leave(first)
