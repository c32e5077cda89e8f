"""Child processes and signals, for tools that must leave nothing behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO, Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE = 10.0

Handlers = list[tuple[signal.Signals, Any]]


class Terminated(KeyboardInterrupt):
    """A signal asked the program to stop. A KeyboardInterrupt, because pytest takes SystemExit for a failed test."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def status(self) -> int:
        """The exit status a shell would report for the signal."""
        return 128 + self.signum


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated(signum)


def raise_on_signals() -> Handlers:
    """Raise Terminated on the signals that have their default effect; return the handlers replaced, for `restore`."""
    if threading.current_thread() is not threading.main_thread():
        return []
    default = (signal.SIG_DFL, signal.default_int_handler)
    return [(s, signal.signal(s, _terminate)) for s in SIGNALS if signal.getsignal(s) in default]


def restore(handlers: Handlers) -> None:
    """Put handlers back and empty the list."""
    while handlers:
        signal.signal(*handlers.pop())


@contextmanager
def masked() -> Iterator[None]:
    """Hold signals back: between making a thing and noting that it exists, an exception would lose it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore signals during a clean-up, which is bounded in time and must not be cut short by an impatient second."""
    handlers: Handlers = []
    if threading.current_thread() is threading.main_thread():
        handlers = [(s, signal.signal(s, signal.SIG_IGN)) for s in SIGNALS]
    try:
        yield
    finally:
        restore(handlers)


def in_child(signum: signal.Signals) -> Callable[[], None]:
    """Return a preexec_fn that lifts `masked` and, on Linux, sends the child `signum` when the forking thread ends."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    parent = os.getpid()

    def preexec() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if prctl is not None:
            # PR_SET_PDEATHSIG is cleared by a change of credentials; subprocess calls this after that change.
            prctl(1, int(signum), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return preexec


def run(command: Sequence[str], env: Mapping[str, str], output: IO[bytes] | None = None) -> int:
    """
    Run a command to its end and return its status, 128 plus the number for a signal.

    What it prints goes to `output`, or where the caller's own goes.
    Pass Terminated, like every exception, on to the command as SIGTERM, and wait for it to end. Raises OSError when
    the command cannot be started.
    """
    with masked():
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, preexec_fn=in_child(signal.SIGTERM))
    try:
        status = process.wait()
    except BaseException:
        with ignored():
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        raise
    return status if status >= 0 else 128 - status
