"""The time limit of a handler."""

from __future__ import annotations

import ctypes
import signal
import threading
from time import monotonic
from types import FrameType

from pgq.errors import TimedOut

# Seconds until a handler that has swallowed an interruption gets another one.
AGAIN = 1.0


class Timeout:
    """
    Interrupt a thread when its time is over, by raising TimedOut in it.

    In the main thread a signal does it, which also ends a sleep or a wait for the network. Any other thread can be
    interrupted only between two instructions of Python: as soon as a blocking call returns. Code in C that does not
    check for signals is never interrupted.
    """

    def __init__(self) -> None:
        self.at: float | None = None
        self._lock = threading.Lock()
        self._thread = 0
        self._main = False

    def arm(self, seconds: float) -> None:
        """Interrupt the calling thread after this time."""
        self._main = threading.current_thread() is threading.main_thread()
        self._thread = threading.get_ident()
        self.at = monotonic() + seconds
        if self._main:
            signal.signal(signal.SIGALRM, self._interrupt)
            signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)

    def disarm(self) -> None:
        """Disarm. Idempotent; call it from the thread that armed."""
        if self.at is None:
            return
        with self._lock:
            self.at = None
            if self._main:
                signal.setitimer(signal.ITIMER_REAL, 0)
            else:
                # Cancel an interruption that is requested and not raised yet.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), None)

    def check(self) -> None:
        """Interrupt a thread other than the main one if its time is over. Call it every few milliseconds."""
        with self._lock:
            if not self._main and self.at is not None and monotonic() >= self.at:
                self.at = monotonic() + AGAIN
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(TimedOut))

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self.at is not None:
            raise TimedOut
