"""The jobs that a loop has claimed, from which it takes one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager

from pgq.job import Claim, Job
from pgq.worker.batching import JobBudget
from pgq.worker.outcomes import Released
from pgq.worker.settle import Settler


class ClaimedJobs:
    """
    The jobs of a loop's last ``claim``, and those of them that are ``unstarted``.

    The ticker's thread takes jobs from here, too. ``at`` is when they were claimed.
    """

    def __init__(self, settler: Settler, budget: JobBudget, lock: AbstractContextManager[object]) -> None:
        self.claim: Claim | None = None
        self.unstarted: deque[Job] = deque()
        self.at = 0.0
        self._settler = settler
        self._budget = budget
        self._lock = lock

    def take(self, claim: Claim | None, at: float) -> None:
        """Hold the jobs of a claim, if it has any; those of the one before have begun or been released."""
        self.claim, self.at = claim, at
        if claim is not None:
            self.unstarted.extend(claim.jobs())

    def next(self) -> Job | None:
        """Take the next job."""
        try:
            return self.unstarted.popleft()
        except IndexError:
            return None

    def peek(self) -> Job | None:
        """Return the next job without taking it."""
        try:
            return self.unstarted[0]
        except IndexError:
            return None

    def next_of_kind(self, kind: str, count: int) -> list[Job]:
        """Take the next jobs of a kind."""
        with self._lock:
            jobs = [job for job in self.unstarted if job.kind == kind][:count]
            for job in jobs:
                self.unstarted.remove(job)
        return jobs

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Put back jobs that were taken and have not begun."""
        self.unstarted.extendleft(reversed(jobs))

    def release_unstarted(self) -> None:
        """Let the jobs that have not begun go back with the next settlement."""
        while (job := self.next()) is not None:
            self._settler.add([Released(job)])
            self._budget.give_back(1)
