"""How many jobs to claim at a time, and how many in all."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from math import ceil

# Seconds of work: enough that a claim costs little beside it, and little enough that other workers get jobs, too.
BATCH_LASTS = 0.1
FIRST = 10


class BatchSize:
    """
    The size of the next batch: as many jobs as take about a tenth of a second, at most ``limit``.

    The time that a job takes is a running mean, in which each batch counts as much as all batches before it. Where the
    arguments are large, the size is what fits into ``max_bytes``, also by a running mean: the claim stops there anyway,
    but it has then locked the jobs that do not fit.
    """

    def __init__(self, limit: int, max_bytes: int) -> None:
        self.limit = limit
        self.max_bytes = max_bytes
        self.seconds: float | None = None
        # Mean size of the arguments of a job; None while claims return as many jobs as were asked for.
        self.bytes: float | None = None

    def size(self, wanted: int = 1) -> int:
        """Return how many jobs to claim; a batch handler has work for as many as are ``wanted``."""
        if self.seconds is None:
            size = min(FIRST, self.limit)
        else:
            size = max(1, min(self.limit, int(BATCH_LASTS / max(self.seconds, 1e-9))))
        size = max(size, wanted)
        return size if self.bytes is None else max(1, min(size, ceil(self.max_bytes / self.bytes)))

    def note(self, jobs: int, seconds: float) -> None:
        """Note how long a number of jobs took together."""
        mean = seconds / jobs
        self.seconds = mean if self.seconds is None else (self.seconds + mean) / 2

    def note_claimed(self, payloads: Sequence[str], asked: int) -> None:
        """Note the payloads of the jobs that a claim returned that was asked for ``asked`` of them."""
        if not payloads or (len(payloads) == asked and self.bytes is None):
            return
        mean = sum(map(len, payloads)) / len(payloads)
        self.bytes = mean if self.bytes is None else (self.bytes + mean) / 2
        if self.bytes * max(asked, self.limit) < self.max_bytes:
            self.bytes = None


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
