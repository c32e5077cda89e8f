"""How many jobs to claim at a time."""

from __future__ import annotations

# Enough that the cost of a claim is small beside the work, and little enough that other workers find something to do.
BATCH_LASTS = 0.1
FIRST = 10


class Pace:
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
