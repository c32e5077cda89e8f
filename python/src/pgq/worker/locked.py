"""Jobs that a transaction has locked when their outcomes are to be recorded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import psycopg

from pgq.job import Claim, Job
from pgq.worker.calls import WorkerQueue
from pgq.worker.outcomes import Outcome, Settlement
from pgq.worker.session import Session
from pgq.worker.settings import Settings
from pgq.worker.settle import Settler, limit_lock_wait, record, unpack

# How long an attempt waits for each lock: whether it is free is all that matters.
BRIEFLY: Final = "10ms"
# The pause after an attempt is so many times as long as the attempt.
PAUSE: Final = 10


def by_claim(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Return the outcomes of each claim: a transaction of a handler may have locked all jobs of its claim."""
    found: dict[Claim, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.job._claim, []).append(outcome)
    return [*found.values()]


def record_unlocked(queue: WorkerQueue, outcomes: Sequence[Outcome], lock_timeout: str) -> list[Settlement]:
    """Record the outcomes of jobs that were claimed together; return a settlement for each that is not locked."""
    if not _unpack(queue, outcomes, lock_timeout):
        return []
    try:
        with queue.conn.transaction():
            limit_lock_wait(queue, lock_timeout)
            settlements = record(queue, outcomes, lock_timeout)
        return [settlement for settlement in settlements if settlement.state != "left"]
    except psycopg.errors.LockNotAvailable:
        if len(outcomes) == 1:
            return []
    # One of the jobs that are done is locked.
    return [found for outcome in outcomes for found in record_unlocked(queue, [outcome], lock_timeout)]


def _unpack(queue: WorkerQueue, outcomes: Sequence[Outcome], lock_timeout: str) -> bool:
    """
    Let the server keep the jobs of a claim in rows of their own, where a job that is locked keeps no other waiting.

    Return false if a transaction has locked their whole batch, as far as two of its jobs tell.
    """
    locked = 0
    for outcome in outcomes:
        if not outcome.job._claim.packed:
            break
        try:
            # A job that has ended already unpacks nothing.
            unpack(queue, [outcome.job], lock_timeout)
        except psycopg.errors.LockNotAvailable:
            locked += 1
            if locked == min(2, len(outcomes)):
                return False
    return True


class LockedJobs:
    """
    The outcomes of a loop that could not be recorded, because a transaction has locked the jobs.

    A handler may have left that transaction open, so the loop goes on without them, and ``settle`` tries again. After a
    whole lease the jobs are left to their leases. The caller of all methods holds ``session.lock``.
    """

    def __init__(self, settings: Settings, session: Session, settler: Settler) -> None:
        self._settings = settings
        self._clock = settings.timing.clock
        self._session = session
        self._settler = settler
        # With the time until which they are kept.
        self._kept: list[tuple[float, Outcome]] = []
        self._again_at = 0.0

    @property
    def outcomes(self) -> list[Outcome]:
        """The outcomes."""
        return [outcome for _, outcome in self._kept]

    @property
    def are_due(self) -> bool:
        """Whether to call ``settle``."""
        return bool(self._kept) and self._clock() >= self._again_at

    def set_aside(self) -> None:
        """Settle the outcomes of the loop, and keep those of locked jobs."""
        until = self._clock() + self._settings.lease.total_seconds()
        self._settler.hand_over(lambda outcomes: self._kept.extend((until, outcome) for outcome in outcomes))
        self.settle()

    def settle(self) -> None:
        """Record the outcomes of those jobs that are no longer locked."""
        began_at = self._clock()
        for claimed in by_claim(self.outcomes):
            settlements = record_unlocked(self._session.queue(), claimed, BRIEFLY)
            self._forget({settlement.job for settlement in settlements})
            self._settler.add(settlements)
        now = self._clock()
        over = [outcome for until, outcome in self._kept if until <= now]
        self._forget({outcome.job for outcome in over})
        self._settler.add(Settlement(outcome.job, "left", seconds=outcome.seconds) for outcome in over)
        # Each claim with a locked job has made the loop wait.
        self._again_at = now + max(self._settings.timing.locked_again, PAUSE * (now - began_at))

    def _forget(self, jobs: Collection[Job]) -> None:
        self._kept = [(until, outcome) for until, outcome in self._kept if outcome.job not in jobs]
