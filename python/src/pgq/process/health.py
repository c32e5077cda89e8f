"""What a service manager wants to know of a worker: messages to systemd, and a file for a liveness probe."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from time import monotonic

# Seconds. A probe gains nothing from a file that is touched more often.
TOUCH_EVERY = 0.5


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


class HealthFile:
    """A file whose mtime is, within half a second, that of the worker's last turn (None: no file)."""

    def __init__(self, path: Path | None) -> None:
        # Absolute, because a handler may change the working directory.
        self.path = path.absolute() if path is not None else None
        self._touched_at = float("-inf")

    def touch(self) -> None:
        """Update the mtime."""
        if self.path is not None and monotonic() - self._touched_at > TOUCH_EVERY:
            self.path.touch()
            self._touched_at = monotonic()
