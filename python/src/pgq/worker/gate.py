"""How one loop of a process runs a suspect while no other loop holds jobs."""

from __future__ import annotations

import threading

from pgq.worker.wakeup import Wakeup


class Gate:
    """
    Keep the other loops of a process from claiming while one loop runs a suspect.

    A suspect may end the process. If another loop held jobs then, it would not be known which job has done it. So each
    loop enters before it claims, and leaves when it holds no job. The loop with a suspect closes the gate, waits until
    the others have left, and opens it in the end. No call blocks: ``wakeups``, those of the loops of the process, are
    set when the gate opens, or when a loop leaves while it is closed.
    """

    def __init__(self) -> None:
        self.wakeups: list[Wakeup] = []
        self._lock = threading.Lock()
        self._inside: set[object] = set()
        # The loop that has closed the gate.
        self.owner: object | None = None
        self._closed_until = 0.0

    def is_closed(self, loop: object, now: float) -> bool:
        """Return whether another loop has closed the gate, and its time is not over."""
        owner = self.owner
        return owner is not None and owner is not loop and now < self._closed_until

    def enter(self, loop: object, now: float) -> bool:
        """Note that the loop may hold jobs; return false if the gate is closed."""
        with self._lock:
            if self.is_closed(loop, now):
                return False
            self._inside.add(loop)
            return True

    def leave(self, loop: object) -> None:
        """Note that the loop holds no job."""
        with self._lock:
            self._inside.discard(loop)
            closed = self.owner is not None
        if closed:
            self._wake()

    def close(self, loop: object, now: float, until: float) -> bool:
        """Close the gate until a time, or set another time; return false if another loop has closed it."""
        with self._lock:
            if self.is_closed(loop, now):
                return False
            self.owner, self._closed_until = loop, until
            return True

    def is_alone(self, loop: object) -> bool:
        """Return whether no other loop may hold jobs."""
        with self._lock:
            return self._inside <= {loop}

    def open(self, loop: object) -> None:
        """Let the other loops in; does nothing unless this loop has closed the gate."""
        with self._lock:
            if self.owner is not loop:
                return
            self.owner = None
        self._wake()

    def _wake(self) -> None:
        # Workers of other databases may begin and end meanwhile.
        for wakeup in self.wakeups.copy():
            wakeup.set()
