"""The time limit of a handler."""

from __future__ import annotations

import ctypes
import signal
import threading
from time import monotonic
from types import FrameType

from pgq.errors import TimedOut
from pgq.process.forks import set_handler
from pgq.process.signals import get_signal, is_main_thread

# Seconds until a handler that has swallowed an interruption gets another one.
AGAIN = 1.0
# Seconds by which the signal may be late before the ticker interrupts.
LATE = 0.2


class Timeout:
    """
    Interrupt a thread when its time is over, by raising TimedOut in it.

    In the main thread a signal does it, which also ends a sleep or a wait for the network. Any other thread can be
    interrupted only between two instructions of Python: as soon as a blocking call returns. So can the main thread
    while the job's handler has replaced the handler of SIGALRM. Code in C that does not check for signals is never
    interrupted.
    """

    def __init__(self) -> None:
        # When the next interruption is due.
        self.at: float | None = None
        self._lock = threading.Lock()
        self._thread = 0
        self._main = False
        self._raised = False
        # One object, so that it can be recognized: a bound method is a new one each time.
        self._handler = self._interrupt

    def install(self) -> None:
        """Handle SIGALRM from now on, if the calling thread is the main one: its default ends the process."""
        if is_main_thread():
            set_handler(signal.SIGALRM, self._handler)

    def restore(self) -> None:
        """Take SIGALRM back from a job's handler that has replaced it. Call it in the main thread."""
        if get_signal(signal.SIGALRM) is not self._handler:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._handler)

    def arm(self, seconds: float) -> None:
        """Interrupt the calling thread after this time."""
        self._main = is_main_thread()
        self._thread = threading.get_ident()
        self._raised = False
        self.at = monotonic() + seconds
        if self._main:
            if get_signal(signal.SIGALRM) is not self._handler:
                signal.signal(signal.SIGALRM, self._handler)
            signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)

    def disarm(self) -> None:
        """Disarm. Idempotent; call it from the thread that armed."""
        if self.at is None:
            return
        with self._lock:
            self.at = None
            if self._main:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if self._raised:
                # Cancel an interruption that is requested and not raised yet.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), None)

    def check(self) -> None:
        """
        Interrupt the thread if its time is over, and in the main thread no signal has done so. Call it in another
        thread, every few milliseconds.
        """
        with self._lock:
            if self.at is None or monotonic() < self.at + (LATE if self._main else 0.0):
                return
            if self._main and get_signal(signal.SIGALRM) is self._handler:
                # The job's handler has set or stopped the timer.
                signal.pthread_kill(self._thread, signal.SIGALRM)
                return
            self.at = monotonic() + AGAIN
            self._raised = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(TimedOut))

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        # Without the lock, which the interrupted code may hold.
        if self.at is None:
            return
        left = self.at - monotonic()
        if left > 0:
            # The job's handler has set the timer to an earlier time.
            signal.setitimer(signal.ITIMER_REAL, left, AGAIN)
            return
        self.at = monotonic() + AGAIN
        raise TimedOut
