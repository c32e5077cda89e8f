"""A sleep that another thread, or a file that becomes readable, ends at once."""

from __future__ import annotations

import contextlib
import socket

from pgq.process.forks import withhold
from pgq.process.polling import readable


class Wakeup:
    """A self-pipe: ``set`` ends the current ``wait``, or the next one if no thread waits."""

    def __init__(self) -> None:
        self._reader, self._writer = map(withhold, socket.socketpair())
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def set(self) -> None:
        """End the wait. Safe in any thread and in a signal handler; does nothing after ``close``."""
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def wait(self, seconds: float | None, *files: int) -> list[int]:
        """Sleep until ``set`` is called, a file is readable, or the time is over; return the readable files."""
        found = readable(seconds, self._reader.fileno(), *files)
        with contextlib.suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass
        return [file for file in found if file in files]

    def close(self) -> None:
        """Close the sockets."""
        self._reader.close()
        self._writer.close()
