"""When a worker that is to end on its own has nothing left to do."""

from __future__ import annotations

from datetime import timedelta

from pgq.job import Remaining

NOW = timedelta(0)


class Drain:
    """
    End when no job is ripe; with ``until_empty``, when no job waits and none runs in any worker.

    Waiting jobs of kinds that the worker has no handler for do not count.
    """

    def __init__(self, *, until_empty: bool) -> None:
        self.until_empty = until_empty

    def is_reached(self, remaining: Remaining) -> bool:
        """Return whether the worker may end."""
        if self.until_empty:
            return remaining.ripe_in is None and not remaining.running
        return remaining.ripe_in is None or remaining.ripe_in > NOW

    def sleep(self, remaining: Remaining, poll: float) -> float:
        """Return how long to sleep at most: no notification is sent for a job that becomes ripe."""
        if remaining.ripe_in is None:
            return poll
        return min(poll, max(remaining.ripe_in.total_seconds(), 0.01))
