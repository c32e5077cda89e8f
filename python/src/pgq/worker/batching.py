"""How many jobs to claim at a time, and how many in all."""

from __future__ import annotations

import threading

# Enough that the cost of a claim is small beside the work, and little enough that other workers find something to do.
BATCH_LASTS = 0.1
FIRST = 10


class BatchSize:
    """
    The size of the next batch: as many jobs as take about a tenth of a second, at most ``limit``.

    How long a job takes is a running mean, in which each batch counts as much as all before it together.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.seconds: float | None = None

    def size(self) -> int:
        """How many jobs to claim."""
        if self.seconds is None:
            return min(FIRST, self.limit)
        return max(1, min(self.limit, int(BATCH_LASTS / max(self.seconds, 1e-9))))

    def note(self, jobs: int, seconds: float) -> None:
        """So many jobs took so long together."""
        one = seconds / jobs
        self.seconds = one if self.seconds is None else (self.seconds + one) / 2


class JobBudget:
    """How many jobs the loops of a worker may begin together; without a limit, as many as they like."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self._taken = 0
        self._begun = 0
        self._lock = threading.Lock()

    def take(self, jobs: int) -> int:
        """Ask for so many; the answer is how many may be claimed."""
        if self.limit is None:
            return jobs
        with self._lock:
            granted = min(jobs, self.limit - self._taken)
            self._taken += granted
        return granted

    def give_back(self, jobs: int) -> None:
        """So many of them will not be begun."""
        with self._lock:
            self._taken -= jobs

    def begin(self, jobs: int) -> bool:
        """So many have been; the answer is whether they were the last ones."""
        if self.limit is None:
            return False
        with self._lock:
            self._begun += jobs
            return self._begun >= self.limit
