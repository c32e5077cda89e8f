"""Interruptions of a handler: its time is over, or its job is to be cancelled."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Sequence
from math import inf
from time import monotonic
from types import FrameType

from pgq.errors import Cancelled, TimedOut
from pgq.job import Claim, Job
from pgq.process.forks import set_handler
from pgq.process.signals import get_signal, is_main_thread

# Seconds until a handler that has swallowed an interruption gets another one.
AGAIN = 1.0
# Seconds by which the signal may be late before the ticker interrupts.
LATE = 0.2


class Interruption:
    """
    Interrupt a thread, by raising TimedOut in it when its time is over, or Cancelled when its jobs are to be cancelled.

    In the main thread a signal does it, which also ends a sleep or a wait for the network. Any other thread can be
    interrupted only between two instructions of Python: as soon as a blocking call returns. So can the main thread
    while the job's handler has replaced the handler of SIGALRM. Code in C that does not check for signals is never
    interrupted.
    """

    def __init__(self) -> None:
        # When the next interruption is due: infinite without a timeout, None when it is not armed.
        self.at: float | None = None
        self._lock = threading.Lock()
        self._thread = 0
        self._main = False
        self._raised = False
        self._timed = False
        # When the ticker may interrupt next.
        self._check_at = 0.0
        # The calls of the short path that a cancel interrupts: the one that runs. The loop appends it, and removes it
        # when the handler has returned; the ticker removes it to interrupt the handler. Only one of the two can.
        self.interruptible: list[tuple[Claim, int]] = []
        # Cancelled is raised when all of these are to be cancelled.
        self._jobs: Sequence[Job] = ()
        self._cancelled = False
        # One object, so that it can be recognized: a bound method is a new one each time.
        self.handler = self._interrupt

    def install(self) -> None:
        """Handle SIGALRM from now on, if the calling thread is the main one: its default ends the process."""
        if is_main_thread():
            set_handler(signal.SIGALRM, self.handler)

    def restore(self) -> None:
        """Take SIGALRM back from a job's handler that has replaced it. Call it in the main thread."""
        if get_signal(signal.SIGALRM) is not self.handler:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self.handler)

    def arm(self, seconds: float | None, jobs: Sequence[Job]) -> None:
        """
        Interrupt the calling thread after this time, or when all of these jobs are to be cancelled.

        Without ``seconds`` there is no timeout; without jobs a cancel does not interrupt the thread.
        """
        self._main = is_main_thread()
        self._thread = threading.get_ident()
        self._raised = self._cancelled = False
        self._timed = seconds is not None
        self._check_at = 0.0
        self._jobs = jobs
        self.at = inf if seconds is None else monotonic() + seconds
        if self._main:
            if get_signal(signal.SIGALRM) is not self.handler:
                signal.signal(signal.SIGALRM, self.handler)
            if seconds is not None:
                signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)

    def enter(self) -> None:
        """Prepare the calling thread for ``interruptible`` calls."""
        self._main = is_main_thread()
        self._thread = threading.get_ident()
        self._timed = False
        if self._main and get_signal(signal.SIGALRM) is not self.handler:
            signal.signal(signal.SIGALRM, self.handler)

    def leave(self) -> None:
        """End an interruptible call that the ticker has removed, perhaps to interrupt it."""
        with self._lock:
            self.interruptible.clear()
        self.disarm()

    def disarm(self) -> None:
        """Disarm. Idempotent; call it from the thread that armed."""
        if self.at is None:
            return
        with self._lock:
            self.at = None
            if self._main and self._timed:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if self._raised:
                # Cancel an interruption that is requested and not raised yet.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), None)

    def check(self) -> None:
        """
        Interrupt the thread if its jobs are to be cancelled, or if its time is over, and in the main thread no signal
        has done so. Call it in another thread, every few milliseconds.
        """
        with self._lock:
            if self.at is None:
                self._take_cancelled()
            if self.at is None:
                return
            if not self._cancelled and self._jobs and all(job._cancelled for job in self._jobs):
                self._cancelled = True
                self.at = monotonic() - LATE
                self._check_at = 0.0
            now = monotonic()
            # A signal every few milliseconds would keep psycopg from noticing any: it restarts its wait.
            if now < self.at + (LATE if self._main else 0.0) or now < self._check_at:
                return
            self._check_at = now + AGAIN
            if self._main and get_signal(signal.SIGALRM) is self.handler:
                # No timer, or the job's handler has set or stopped it.
                signal.pthread_kill(self._thread, signal.SIGALRM)
                return
            self.at = now + AGAIN
            self._raised = True
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(self._error()))

    def _take_cancelled(self) -> None:
        """Arm for the interruptible call, if its job is to be cancelled."""
        try:
            claim, job_id = self.interruptible[-1]
            if job_id not in claim.cancelled:
                return
            taken = self.interruptible.pop()
        except IndexError:
            # The handler has returned.
            return
        if taken[1] != job_id:
            # The next call has begun between the two steps; the next check looks at it.
            self.interruptible.append(taken)
            return
        self._raised, self._cancelled, self._jobs = False, True, ()
        self._check_at = 0.0
        self.at = monotonic() - LATE

    def _error(self) -> type[KeyboardInterrupt]:
        return Cancelled if self._cancelled else TimedOut

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        # Without the lock, which the interrupted code may hold.
        if self.at is None or self.at == inf:
            return
        left = self.at - monotonic()
        if left > 0:
            # The job's handler has set the timer to an earlier time.
            if self._timed:
                signal.setitimer(signal.ITIMER_REAL, left, AGAIN)
            return
        self.at = monotonic() + AGAIN
        raise self._error()
