"""What a process that is forked from a worker, usually by a handler, does not inherit: connections and signals."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakSet


class File(Protocol):
    """A connection or a socket."""

    def fileno(self) -> int:
        """Return the file descriptor; -1, or an exception, when it is closed."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


F = TypeVar("F", bound=File)
# How many connections are opened, one after the other, while other threads fork all the time.
TRIES: Final = 5


class Inheritance(threading.local):
    """What the hooks around a fork keep for each other, in the thread that forks."""

    # The signals that were blocked before the fork.
    mask: set[Any] | None = None


class Shared:
    """
    What this process keeps from its children.

    Any thread may fork at any time, so the hooks take no lock: in the child, no thread would release it. Instead each
    change here is one operation of CPython, during which no other thread runs.
    """

    def __init__(self) -> None:
        self.files: WeakSet[File] = WeakSet()
        # By signal: the handler of the worker, and the one that it has replaced.
        self.handlers: dict[int, tuple[Any, Any]] = {}
        # A socket whose other end is closed.
        self.dead: socket.socket | None = None
        self.last_fork = object()


_shared = Shared()
_inheritance = Inheritance()


def withhold(file: F) -> F:
    """
    Keep a connection or socket from the children that this process will fork; return it.

    A child has a dead socket under the same number instead, so that nothing that happens there reaches the other end:
    neither a close by libpq, which would end the session, nor the end of the child, for which the server would wait.
    """
    if _shared.dead is None:
        _shared.dead, other = socket.socketpair()
        other.close()
    _shared.files.add(file)
    return file


def withheld(connect: Callable[[], F]) -> F:
    """
    Open a connection, and keep it from the children of this process; return it.

    A child that another thread has forked meanwhile may have inherited it, so it is closed then, and another one
    opened.
    """
    for _ in range(TRIES - 1):
        last_fork = _shared.last_fork
        file = withhold(connect())
        if _shared.last_fork is last_fork:
            return file
        file.close()
    return withhold(connect())


def set_handler(number: int, handler: Any) -> Any:
    """Set a signal handler as ``signal.signal`` does. The children of this process get the one that it replaces."""
    replaced = signal.signal(number, handler)
    ours, before = _shared.handlers.get(number, (None, replaced))
    _shared.handlers[number] = (handler, before if replaced == ours else replaced)
    return replaced


def _before() -> None:
    """
    Run before a fork. Block the signals of the worker: one that is sent to the child before it has its own handlers
    would count as one to the worker.
    """
    _shared.last_fork = object()
    if _shared.handlers and _inheritance.mask is None:
        # Kept before anything is blocked, because a timeout may raise here. Its signal is not blocked: a child inherits
        # no timer.
        _inheritance.mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_sigmask(signal.SIG_BLOCK, _shared.handlers.keys() - {signal.SIGALRM})


def _unblock() -> None:
    if _inheritance.mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _inheritance.mask)
        _inheritance.mask = None


def _in_child() -> None:
    """Run in the child, before anything else there. Its only thread is its main thread."""
    numbers = set()
    for file in list(_shared.files):
        with contextlib.suppress(Exception):
            numbers.add(file.fileno())
    numbers.discard(-1)
    interruptible = False
    for number, (handler, before) in _shared.handlers.items():
        if signal.getsignal(number) == handler:
            # Python ignores the KeyboardInterrupt of a hook, so a SIGINT that has arrived ends the child instead.
            is_raising = before is signal.default_int_handler
            interruptible |= is_raising
            signal.signal(number, signal.SIG_DFL if before is None or is_raising else before)
    if _shared.handlers:
        wakeup = signal.set_wakeup_fd(-1)
        if wakeup not in numbers:
            signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    for number in numbers:
        if _shared.dead is not None:
            with contextlib.suppress(OSError):
                os.dup2(_shared.dead.fileno(), number, inheritable=False)
    _shared.files.clear()
    _shared.handlers.clear()
    _unblock()
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)


os.register_at_fork(before=_before, after_in_parent=_unblock, after_in_child=_in_child)
