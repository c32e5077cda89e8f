"""A limit on how long a handler takes."""

from __future__ import annotations

import ctypes
import signal
import threading
from time import monotonic
from types import FrameType

from pgq.errors import TimedOut

# A handler that has swallowed the first interruption gets another one.
AGAIN = 1.0


class Timeout:
    """
    Interrupt what runs in a thread when its time is over, by raising TimedOut in it.

    In the main thread by a signal, which also ends a sleep or a wait for the network. In any other thread Python can be
    interrupted only between two of its own instructions: as soon as whatever it is waiting for is over. Nowhere can it
    interrupt code in C that does not look for signals.
    """

    def __init__(self) -> None:
        self.at: float | None = None
        self._lock = threading.Lock()
        self._thread = 0
        self._main = False

    def arm(self, seconds: float) -> None:
        """Interrupt the calling thread after so many seconds."""
        self._main = threading.current_thread() is threading.main_thread()
        self._thread = threading.get_ident()
        self.at = monotonic() + seconds
        if self._main:
            signal.signal(signal.SIGALRM, self._strike)
            signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)

    def disarm(self) -> None:
        """Do not interrupt it, or not any more. From the thread that has armed it, and as often as one likes."""
        if self.at is None:
            return
        with self._lock:
            self.at = None
            if self._main:
                signal.setitimer(signal.ITIMER_REAL, 0)
            else:
                # One that was asked for and not raised yet.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), None)

    def look(self) -> None:
        """Interrupt a thread other than the main one, if its time is over; to be called by somebody now and then."""
        with self._lock:
            if not self._main and self.at is not None and monotonic() >= self.at:
                self.at = monotonic() + AGAIN
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(TimedOut))

    def _strike(self, _number: int, _frame: FrameType | None) -> None:
        if self.at is not None:
            raise TimedOut
