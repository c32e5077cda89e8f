"""Whether a loop does its work, for the report on the worker's health."""

from __future__ import annotations

from pgq.worker.execution import Execution
from pgq.worker.settings import Timing


class Liveness:
    """
    Until when a loop counts as well: for a while after each sign that it does its work.

    It does its work while it claims, sleeps because no job is ripe, or runs a handler that is within its timeout.
    """

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._until = timing.clock() + timing.unwell_after

    def note(self, now: float, sleep: float = 0.0) -> None:
        """Note that the loop does its work, and perhaps sleeps for so many seconds."""
        self._until = now + sleep + self._timing.unwell_after

    def is_well(self, execution: Execution | None) -> bool:
        """Return whether the loop, which runs this, counts as well now."""
        now = self._timing.clock()
        if execution is not None and execution.is_in_time(now):
            self.note(now)
        return now <= self._until
