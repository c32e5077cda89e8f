"""What an executor runs, as other threads see it."""

from __future__ import annotations

from typing import NamedTuple

from pgq.handlers import Handler
from pgq.job import Job


class Execution(NamedTuple):
    """What an executor runs. Other threads read it; it is replaced as a whole and never changed."""

    jobs: tuple[Job, ...]
    handler: Handler
    # When the handler was called; its timeout counts from here.
    since: float
    # When the jobs were claimed; their lease counts from here.
    claimed_at: float

    def is_in_time(self, now: float) -> bool:
        """Return whether the handler has no timeout, or is within it."""
        return self.handler.timeout is None or now <= self.since + self.handler.timeout


class NotBegun(Exception):
    """There was no connection for these jobs, so their handler was not called."""

    def __init__(self, jobs: list[Job]) -> None:
        super().__init__(f"{len(jobs)} jobs")
        self.jobs = jobs
