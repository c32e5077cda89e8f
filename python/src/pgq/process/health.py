"""What a service manager wants to know of a worker: messages to systemd, and a file for a liveness probe."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pgq.process.logs import logger

# What a child tells its supervisor through its lifeline.
READY: Final = b"R"
DRAINED: Final = b"D"
REFUSED: Final = b"F"
WELL: Final = b"W"
UNWELL: Final = b"U"
# Seconds. A probe gains nothing from a file that is touched more often.
TOUCH_EVERY = 0.5
# Seconds for which a worker may be unable to do its work before it counts as unwell.
UNWELL_AFTER = 60.0


def notify_systemd(state: str) -> None:
    """Send a state to the service manager that has set NOTIFY_SOCKET (systemd, ``Type=notify``); errors are ignored."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # An abstract address is written with an @ in front.
    path = f"\0{address[1:]}" if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), path)
        except OSError:
            return


def tell_ready(lifeline: socket.socket | None) -> None:
    """Tell systemd, or the supervisor at the other end of the lifeline, that this process has begun to work."""
    notify_systemd("READY=1")
    if lifeline is not None:
        # Where the supervisor is gone, the end of the lifeline stops this process.
        with contextlib.suppress(OSError):
            lifeline.send(READY)


def watchdog_seconds() -> float | None:
    """Return how often the service manager wants to hear that this process is well; None if it does not (systemd)."""
    try:
        seconds = int(os.environ["WATCHDOG_USEC"]) / 1e6
        asked = int(os.environ.get("WATCHDOG_PID", os.getpid()))
    except (KeyError, ValueError):
        return None
    return seconds if seconds > 0 and asked == os.getpid() else None


class Health:
    """
    Tell that this process is well, by the modification time of a file and to systemd, as far as each is wanted.

    A child tells its supervisor whether it is well instead, and the supervisor tells for all.
    """

    def __init__(self, path: Path | None, lifeline: socket.socket | None = None) -> None:
        # Absolute, because a handler may change the working directory.
        self.path = path.absolute() if path is not None and lifeline is None else None
        self.lifeline = lifeline
        watchdog = watchdog_seconds() if lifeline is None else None
        self.has_watchdog = watchdog is not None
        # Systemd recommends half of its time.
        self.every = min(TOUCH_EVERY, watchdog / 2) if watchdog is not None else TOUCH_EVERY
        self._warned = False

    @property
    def is_wanted(self) -> bool:
        """Whether a file, the supervisor or systemd is to be told."""
        return self.path is not None or self.lifeline is not None or self.has_watchdog

    def tell(self, well: bool) -> None:
        """Tell once whether this process is well. Errors are logged: a full disk must not end a worker."""
        if self.lifeline is not None:
            # The supervisor may be gone, or so slow that it has not read what came before.
            with contextlib.suppress(OSError):
                self.lifeline.send(WELL if well else UNWELL, socket.MSG_DONTWAIT)
        if not well:
            return
        if self.has_watchdog:
            notify_systemd("WATCHDOG=1")
        if self.path is not None:
            try:
                self.path.touch()
                self._warned = False
            except OSError as error:
                if not self._warned:
                    logger.warning("cannot update the health file %s: %s", self.path, error.strerror)
                self._warned = True


class HealthReport:
    """Ask a process whether it is well, and tell it, in a thread of its own, from ``start`` to ``close``."""

    def __init__(self, health: Health, is_well: Callable[[], bool]) -> None:
        self._health = health
        self._is_well = is_well
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, if there is anything to tell."""
        if self._health.is_wanted:
            self._thread = threading.Thread(target=self._run, name="pgq-health", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while True:
            self._health.tell(self._is_well())
            if self._closed.wait(self._health.every):
                return
