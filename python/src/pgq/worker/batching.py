"""How many jobs to claim at a time, and how many in all."""

from __future__ import annotations

import threading

# Seconds of work: enough that a claim costs little beside it, and little enough that other workers get jobs, too.
BATCH_LASTS = 0.1
FIRST = 10


class BatchSize:
    """
    The size of the next batch: as many jobs as take about a tenth of a second, at most ``limit``.

    The time that a job takes is a running mean, in which each batch counts as much as all batches before it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.seconds: float | None = None

    def size(self) -> int:
        """Return how many jobs to claim."""
        if self.seconds is None:
            return min(FIRST, self.limit)
        return max(1, min(self.limit, int(BATCH_LASTS / max(self.seconds, 1e-9))))

    def note(self, jobs: int, seconds: float) -> None:
        """Note how long a number of jobs took together."""
        mean = seconds / jobs
        self.seconds = mean if self.seconds is None else (self.seconds + mean) / 2


class JobBudget:
    """The number of jobs that the loops of a worker may begin together (None: no limit)."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._reserved = 0
        self._begun = 0
        self._lock = threading.Lock()

    def reserve(self, jobs: int) -> int:
        """Return how many of these jobs may be claimed."""
        if self.limit is None:
            return jobs
        with self._lock:
            granted = min(jobs, self.limit - self._reserved)
            self._reserved += granted
        return granted

    def give_back(self, jobs: int) -> None:
        """Take back the reservation of jobs that will not begin."""
        with self._lock:
            self._reserved -= jobs

    def begin(self, jobs: int) -> bool:
        """Count jobs that have begun; return whether the budget is used up."""
        if self.limit is None:
            return False
        with self._lock:
            self._begun += jobs
            return self._begun >= self.limit
