"""Stop signals: the first one lets a process finish its work, the second one ends it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, ClassVar

from pgq.process.forks import set_handler, withhold
from pgq.process.polling import readable

STOP = (signal.SIGTERM, signal.SIGINT)
# A handler that is quicker than this many seconds cannot have run an event loop, which takes the wake-up descriptor.
# To look at the descriptor costs system calls; to read a signal's handler costs none.
QUICK = 0.0002
# signal.getsignal tries to make an enum of what this function returns, in vain for a handler; that takes 200 times as
# long.
get_signal: Callable[[int], Any] = getattr(sys.modules.get("_signal"), "getsignal", signal.getsignal)


def is_main_thread() -> bool:
    """Return whether this is the thread that receives signals, and the only one that may set their handlers."""
    return threading.current_thread() is threading.main_thread()


def end_at_once(*_: object) -> None:
    """End this process, which has not begun anything, as a worker that was stopped by one signal."""
    os._exit(0)


def exit_within(seconds: float, code: int) -> None:
    """
    End this process after a time, whatever happens: Python would wait for ever for threads that handlers have left.
    """
    timer = threading.Timer(seconds, os._exit, [code])
    timer.daemon = True
    timer.start()


class StopSignals:
    """
    Within this context, call ``stop`` at the first SIGTERM or SIGINT, and ``abort`` with the signal's number at the
    second one, or when ``grace`` seconds have passed since the first.

    Both are called in the thread ``pgq-signals``: the main thread runs signal handlers only between two instructions of
    Python, and may be in a long call. ``stop`` is called in the main thread as well, before that thread begins anything
    else. Outside the main thread, which alone receives signals, the context does nothing. The end of the ``lifeline``,
    if given, counts as a SIGTERM. At the end the handler of SIGALRM is put back, too, and its timer stopped.
    """

    # The one whose context was entered last and is not left.
    active: ClassVar[StopSignals | None] = None

    def __init__(
        self,
        stop: Callable[[], None],
        abort: Callable[[int], None],
        grace: float,
        lifeline: socket.socket | None = None,
    ) -> None:
        self._stop = stop
        self._abort = abort
        self._grace = grace
        self._lifeline = lifeline
        self._before: dict[int, Any] = {}
        self._wakeup_fd = -1
        self._thread: threading.Thread | None = None
        # The thread that may call restore.
        self.main_thread = threading.main_thread().ident
        self._outer: StopSignals | None = None
        # One object, so that it can be recognized.
        self.handler = lambda *_: self._stop()

    def __enter__(self) -> StopSignals:
        if is_main_thread():
            self._reader, self._writer = map(withhold, socket.socketpair())
            self._writer.setblocking(False)
            self._wakeup_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            # Python writes the number of each signal to the socket from C, at once; the thread reads it there.
            self._before = {number: set_handler(number, self.handler) for number in STOP}
            self._before[signal.SIGALRM] = signal.getsignal(signal.SIGALRM)
            self._outer, StopSignals.active = StopSignals.active, self
            self._thread = threading.Thread(target=self._watch, name="pgq-signals", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        StopSignals.active = self._outer
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            set_handler(number, handler or signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup_fd)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def restore(self, seconds: float = float("inf")) -> None:
        """
        Put back what a job's handler, which has taken so long, has replaced. Call it in the main thread.

        An event loop of asyncio takes the wake-up descriptor along with the handler of any signal, and puts neither
        back. After a quick handler only the signal handlers are looked at.
        """
        is_intact = True
        for number in STOP:
            if get_signal(number) is not self.handler:
                is_intact = False
                signal.signal(number, self.handler)
        if seconds > QUICK or not is_intact:
            signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP, signal.SIGALRM))

    def _watch(self) -> None:
        first: int | None = None
        abort_at = float("inf")
        lifeline = [self._lifeline] if self._lifeline is not None else []
        while True:
            timeout = None if first is None else max(0.0, abort_at - monotonic())
            ready = readable(timeout, self._reader.fileno(), *(file.fileno() for file in lifeline))
            stops: list[int] = []
            if self._reader.fileno() in ready:
                numbers = self._reader.recv(4096)
                if not numbers:
                    return
                stops += [number for number in numbers if number in STOP]
            if any(file.fileno() in ready for file in lifeline):
                # The supervisor never writes: the lifeline has ended, and with it the supervisor.
                lifeline = []
                stops.append(signal.SIGTERM)
            for number in stops:
                if first is None:
                    first, abort_at = number, monotonic() + self._grace
                    self._stop()
                else:
                    self._abort(number)
            if first is not None and monotonic() >= abort_at:
                self._abort(first)
