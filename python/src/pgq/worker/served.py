"""The queues that a worker serves: those that it was given, or those in which jobs wait."""

from __future__ import annotations

from pgq.worker.calls import WorkerQueue
from pgq.worker.settings import Settings

# Seconds between two searches by a worker that finds jobs.
SEARCH_AFTER = 1.0
# Two searches in a row that take longer than this, because a snapshot is held, are followed by a pause of so many times
# the length of the shorter one.
LONG_SEARCH = 0.1
PAUSE = 20
# With more queues than this, a worker registers only those in which jobs wait.
MANY = 1000


class ServedQueues:
    """
    The queues of a worker, which its loops and its presence share.

    With prefixes, ``search`` asks the database for them. ``names`` are those in which jobs waited at the last search,
    and ``known`` those that the worker has found so far, for operators. Without, both are those that it was given.
    """

    def __init__(self, settings: Settings) -> None:
        self.prefixes = settings.queue_prefixes
        self.names = self.known = settings.queues
        self._clock = settings.timing.clock
        self._due = self._not_before = float("-inf")
        self._seconds = 0.0

    def search(self, queue: WorkerQueue, *, at_once: bool = False) -> None:
        """
        Look which queues there are, a second after the last search or ``at_once``; this also rescues jobs.

        Several threads may search at a time. Where a result is older than the one that it replaces, the next search
        mends that.
        """
        now = self._clock()
        if not self.prefixes or now < (self._not_before if at_once else self._due):
            return
        self._due = now + SEARCH_AFTER
        self.names = tuple(queue.queues_to_serve(self.prefixes))
        ended_at = self._clock()
        before, self._seconds = self._seconds, ended_at - now
        if (shorter := min(before, self._seconds)) > LONG_SEARCH:
            self._not_before = ended_at + PAUSE * shorter
            self._due = max(self._due, self._not_before)
        if not set(self.names) <= set(self.known):
            known = tuple(dict.fromkeys((*self.known, *self.names)))
            self.known = known if len(known) <= MANY else self.names

    def forget(self) -> None:
        """Forget the queues in which no job waits: the role may no longer be allowed to use them."""
        if self.prefixes:
            self.known = self.names
