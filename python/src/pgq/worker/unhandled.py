"""Kinds for which this worker has no handler: what the log says about their jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from pgq.process.logs import logger

# Seconds between two warnings about a kind.
WARN_EVERY: Final = 60.0
# Producers choose kinds, so their number is limited: beyond so many, warnings older than a minute are forgotten.
MOST_KINDS: Final = 1000


class UnhandledKinds:
    """Warn of kinds without a handler, once for each kind and minute, whichever loop meets their jobs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._warned_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def warn(self, kind: str) -> None:
        """Warn of a job of this kind, unless that was done within the last minute."""
        now = self._clock()
        with self._lock:
            if now < self._warned_at.get(kind, float("-inf")) + WARN_EVERY:
                return
            if len(self._warned_at) >= MOST_KINDS:
                self._warned_at = {one: at for one, at in self._warned_at.items() if now < at + WARN_EVERY}
            self._warned_at[kind] = now
        logger.warning(
            'no handler for kind "%s" in this worker: its jobs wait for a worker that has one; or name the module with '
            "its handler as well",
            kind,
            extra={"action": "unhandled", "kind": kind},
        )
