"""When a worker that shall end by itself has nothing left to do."""

from __future__ import annotations

from datetime import timedelta

from pgq.job import Remaining

NOW = timedelta(0)


class Drain:
    """End when no job is ripe; with ``until_empty``, when none waits and none is running, with whomever."""

    def __init__(self, *, until_empty: bool) -> None:
        self.until_empty = until_empty

    def is_reached(self, pending: Remaining) -> bool:
        """Whether this is it."""
        if self.until_empty:
            return pending.ripe_in is None and not pending.running
        return pending.ripe_in is None or pending.ripe_in > NOW

    def sleep(self, pending: Remaining, poll: float) -> float:
        """How long to sleep at most: a job that becomes ripe notifies nobody."""
        if pending.ripe_in is None:
            return poll
        return min(poll, max(pending.ripe_in.total_seconds(), 0.01))
