"""What a service manager wants to know."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from time import monotonic

# More often would be of no use to whoever looks at it.
TOUCH_EVERY = 0.5


def notify(state: str) -> None:
    """Tell systemd (``Type=notify``), or whoever has set NOTIFY_SOCKET: a plain datagram, whether heard or not."""
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


class Health:
    """A file whose time of modification is that of the worker's last turn, but for half a second; None: no file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._touched_at = float("-inf")

    def touch(self) -> None:
        """A turn begins."""
        if self.path is not None and monotonic() - self._touched_at > TOUCH_EVERY:
            self.path.touch()
            self._touched_at = monotonic()
