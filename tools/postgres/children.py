"""Child processes and signals, for tools that must leave no process and no file behind."""

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
    """A signal told the program to stop. A KeyboardInterrupt: pytest reports SystemExit as a failed test."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def status(self) -> int:
        """The exit status that a shell reports for the signal."""
        return 128 + self.signum


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated(signum)


def raise_on_signals() -> Handlers:
    """Raise Terminated on signals that have their default effect; return the replaced handlers, for `restore`."""
    if threading.current_thread() is not threading.main_thread():
        return []
    default = (signal.SIG_DFL, signal.default_int_handler)
    return [(s, signal.signal(s, _terminate)) for s in SIGNALS if signal.getsignal(s) in default]


def restore(handlers: Handlers) -> None:
    """Install replaced handlers again, and empty the list."""
    while handlers:
        signal.signal(*handlers.pop())


@contextmanager
def masked() -> Iterator[None]:
    """Block signals, so that no exception comes between the creation of a resource and the note that it exists."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore signals during a clean-up, which takes limited time and which a second signal must not interrupt."""
    handlers: Handlers = []
    if threading.current_thread() is threading.main_thread():
        handlers = [(s, signal.signal(s, signal.SIG_IGN)) for s in SIGNALS]
    try:
        yield
    finally:
        restore(handlers)


def in_child(signum: signal.Signals) -> Callable[[], None]:
    """Return a preexec_fn that unblocks signals; on Linux the child gets `signum` when the forking thread ends."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    parent = os.getpid()

    def preexec() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if prctl is not None:
            # A change of credentials clears PR_SET_PDEATHSIG (1); subprocess calls this after that change.
            prctl(1, int(signum), 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return preexec


def run(command: Sequence[str], env: Mapping[str, str], output: IO[bytes] | None = None) -> int:
    """
    Run a command; return its exit status, or 128 plus the number of the signal that ended it.

    Its output goes to `output`, or to the caller's own. On Terminated or any other exception, send it SIGTERM, wait for
    its end, and raise the exception again. Raises OSError if the command cannot be started.
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
