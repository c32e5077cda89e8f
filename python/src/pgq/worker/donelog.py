"""The log of jobs that are done: not a line for each, but one for all of a kind, about once a second."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Final

from pgq.process.logs import logger
from pgq.worker.outcomes import Done, Settlement

# Seconds from one line about a kind to the next.
EVERY: Final = 1.0
# A line names its jobs when they are no more than so many.
FEW: Final = 10


class Tally:
    """What a line says of the jobs of one kind. Times are in seconds."""

    __slots__ = ("count", "duration", "ids", "longest", "waited")

    def __init__(self) -> None:
        self.count = 0
        # The first few.
        self.ids: list[int] = []
        self.duration = 0.0
        self.longest = 0.0
        self.waited = 0.0

    def add(self, ids: Sequence[int], durations: Sequence[float], waited: float) -> None:
        """Count jobs; ``waited`` is the longest wait of one of them."""
        self.count += len(ids)
        self.ids += ids[: FEW - len(self.ids)]
        self.duration += sum(durations)
        self.longest = max(self.longest, *durations)
        self.waited = max(self.waited, waited)

    def log(self, kind: str, seconds: float) -> None:
        """Write the line; the jobs were done in so many seconds. Its extras have all figures, and the ids or None."""
        few = self.count <= FEW
        mean = self.duration / self.count
        if self.count == 1:
            text = f"{duration(mean)} (waited {duration(self.waited)}): job {self.ids[0]}"
        else:
            text = f"{duration(seconds)} (mean {duration(mean)}, longest {duration(self.longest)}, "
            text += f"waited up to {duration(self.waited)})"
            text += f": jobs {', '.join(map(str, self.ids))}" if few else ""
        logger.info(
            "done %s %s in %s",
            f"{self.count:,}",
            kind,
            text,
            extra={
                "action": "done",
                "kind": kind,
                "count": self.count,
                "seconds": seconds,
                "duration": mean,
                "longest": self.longest,
                "wait": self.waited,
                "job_ids": self.ids if few else None,
            },
        )


class DoneLog:
    """
    Count the jobs that the loops of a process have done, and log them by kind.

    ``flush`` writes a line for each kind, if the last ones are a second old. Loops call it when they settle, and
    presence about once a second, for loops that sleep or run long handlers; ``flush_all`` is for the end.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Nothing waits under this lock, because the lines are written outside.
        self._lock = threading.Lock()
        self._tallies: dict[str, Tally] = {}
        # When the first of these jobs was claimed, or the lines before were written, if that is later.
        self._since = 0.0
        self._flushed_at = float("-inf")

    @property
    def is_on(self) -> bool:
        """Whether the log takes the lines."""
        return logger.isEnabledFor(logging.INFO)

    def add(self, settlement: Settlement, since: float) -> None:
        """Count the job if it is done, without a line of its own; it was claimed at this time or later."""
        if settlement.state != "done" or settlement.cause is not None or not self.is_on:
            return
        job, waited = settlement.job, settlement.job.waited
        with self._lock:
            self._tally(job.kind, since).add(
                [job.id], [settlement.seconds or 0.0], waited.total_seconds() if waited is not None else 0.0
            )

    def add_all(self, done: Iterable[Done], since: float) -> None:
        """Count plain completions, of jobs that were claimed at this time or later."""
        if not self.is_on:
            return
        with self._lock:
            for claim, of_claim in groupby(done, itemgetter(1)):
                ripe_ats = claim.column("ripe_at")
                for kind, of_kind in groupby(of_claim, lambda one: str(one[1].kinds[one[2]])):
                    ids, _, places, durations = zip(*of_kind, strict=True)
                    waited = claim.waited(min(map(ripe_ats.__getitem__, places)))
                    self._tally(kind, since).add(ids, durations, waited.total_seconds() if waited is not None else 0.0)

    def _tally(self, kind: str, since: float) -> Tally:
        if not self._tallies:
            self._since = max(since, self._flushed_at)
        tally = self._tallies.get(kind)
        if tally is None:
            tally = self._tallies[kind] = Tally()
        return tally

    def flush(self) -> None:
        """Write the lines that are due."""
        if self._tallies and self._clock() >= self._flushed_at + EVERY:
            self.flush_all()

    def flush_all(self) -> None:
        """Write the lines, because the worker ends."""
        with self._lock:
            tallies, self._tallies = self._tallies, {}
            since, self._flushed_at = self._since, self._clock()
            seconds = self._flushed_at - since
        for kind in sorted(tallies):
            tallies[kind].log(kind, seconds)


def duration(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 1.0:
        return f"{1000 * seconds:.{1 if seconds < 0.01 else 0}f} ms"
    return f"{seconds:.{1 if seconds < 60 else 0}f} s"
