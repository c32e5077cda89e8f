"""A sleep that another thread ends at once."""

from __future__ import annotations

import contextlib
import select
import socket


class Wakeup:
    """Sleep until somebody rings. A ring while nobody sleeps ends the next sleep."""

    def __init__(self) -> None:
        self._ear, self._clapper = socket.socketpair()
        self._ear.setblocking(False)
        self._clapper.setblocking(False)

    def ring(self) -> None:
        """End the sleep, if anybody is left to sleep; may be called from any thread."""
        with contextlib.suppress(OSError):
            self._clapper.send(b"\0")

    def sleep(self, seconds: float, *files: int) -> None:
        """Sleep, but no longer than to the next ring, or until there is something to read from one of the files."""
        select.select([self._ear.fileno(), *files], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            while self._ear.recv(4096):
                pass

    def close(self) -> None:
        """Give the sockets back."""
        self._ear.close()
        self._clapper.close()
