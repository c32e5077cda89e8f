"""The idle loops of a process: one session is notified for all of them, and one of them looks for all."""

from __future__ import annotations

import threading

import psycopg

from pgq.errors import Error
from pgq.process.logs import logger
from pgq.worker.joblog import first_line
from pgq.worker.session import Session
from pgq.worker.settings import Settings
from pgq.worker.wakeup import Wakeup

# The payload of the notification of a job that is ripe soon.
LATER = "later"


class IdleLoops:
    """
    The loops that sleep. The first one keeps the time for all: it asks when the next job is ripe.

    ``session`` is that of the worker's presence. It is declared idle (``pgq_idle``) while a loop sleeps, and hears of
    ripe jobs; each notification wakes one loop. The thread of the presence waits for notifications: ``listener`` ends
    its sleep. Behind a transaction pooler no session is declared idle.
    """

    def __init__(self, settings: Settings, session: Session, listener: Wakeup) -> None:
        self.settings = settings
        self.session = session
        self._listener = listener
        self._clock = settings.timing.clock
        self._lock = threading.Lock()
        self._sleeping: list[Wakeup] = []
        self._busy_since = self._clock()
        # Whether a notification found no loop asleep.
        self._missed = False
        # When a loop last claimed or looked, and so rescued the jobs of workers that are gone.
        self.looked_at = self._clock()

    @property
    def look_after(self) -> float:
        """After how many seconds at most the loop that keeps the time looks again."""
        if self.settings.transaction_pooler:
            return self.settings.poll
        return min(self.settings.poll, self.settings.timing.look)

    def enter(self, loop: Wakeup) -> bool:
        """
        Add a loop to those that sleep, and return true; return false if it must claim once more first.

        That claim finds jobs that came just before the session was declared idle, or while no loop was asleep.
        """
        if self._declare_idle():
            return False
        with self._lock:
            if self._missed:
                self._missed = False
                return False
            self._sleeping.append(loop)
        return True

    def leave(self, loop: Wakeup) -> None:
        """Take a loop from those that sleep, if another thread has not done so to wake it."""
        with self._lock:
            if loop in self._sleeping:
                kept_time = self._sleeping[0] is loop
                self._sleeping.remove(loop)
                if kept_time and self._sleeping:
                    self._sleeping[0].set()
            if not self._sleeping:
                self._busy_since = self._clock()

    def is_asleep(self, loop: Wakeup) -> bool:
        """Return whether a loop has not been woken to claim."""
        with self._lock:
            return loop in self._sleeping

    def keeps_time(self, loop: Wakeup) -> bool:
        """Return whether a loop is the one that keeps the time."""
        with self._lock:
            return bool(self._sleeping) and self._sleeping[0] is loop

    def wake_one(self, *, but: Wakeup | None = None) -> bool:
        """Wake a loop to claim, last the one that keeps the time; return whether one was asleep."""
        with self._lock:
            if not self._sleeping or self._sleeping[-1] is but:
                return False
            self._sleeping.pop().set()
            if not self._sleeping:
                self._busy_since = self._clock()
        return True

    def notified(self, payload: str) -> None:
        """Wake one loop: to claim, or to look if a job is ripe soon."""
        if payload == LATER:
            with self._lock:
                if self._sleeping:
                    self._sleeping[0].set()
                    return
        elif self.wake_one():
            return
        with self._lock:
            self._missed = True
        self._listener.set()

    def patience(self, seconds: float) -> float:
        """Return how long to wait, at most ``seconds``, until the session may have to be declared awake."""
        with self._lock:
            if self._sleeping or not (self.session.idle or self._missed):
                return seconds
            return min(seconds, max(0.0, self._busy_since + self.settings.timing.stay_idle - self._clock()))

    def declare_awake_if_busy(self, *, at_once: bool = False) -> None:
        """
        Declare the session awake if no loop sleeps, and pass on a notification for which none was asleep.

        It does so only after a pause, unless ``at_once``: a loop that is woken for a single short job sleeps again
        before, which saves the round trips.
        """
        if not self.session.idle and not self._missed:
            return
        with self.session.lock:
            with self._lock:
                if self._sleeping or not (
                    at_once or self._clock() >= self._busy_since + self.settings.timing.stay_idle
                ):
                    return
                missed, self._missed = self._missed, False
            if self.session.closed:
                return
            try:
                self.session.leave_idle(self.settings.queues, pass_on=missed)
            except (psycopg.Error, Error) as error:
                self._lose(error)

    def declare_idle_again(self) -> None:
        """Declare a new session idle if loops sleep, and let one of them claim once more."""
        if self._sleeping and self._declare_idle():
            self.wake_one()

    def end(self) -> None:
        """Declare the session awake for good, and pass on a notification that may have woken a loop that has ended."""
        if self.session.idle and not self.session.closed:
            with self.session.lock:
                self.session.leave_idle(self.settings.queues, pass_on=True)

    def _declare_idle(self) -> bool:
        """Declare the session idle; return false if it is already, or if there is none."""
        if self.settings.transaction_pooler:
            return False
        with self.session.lock:
            # The thread of the presence connects again, and declares the new session idle.
            if self.session.closed or self.session.idle:
                return False
            try:
                self.session.enter_idle(self.settings.queues)
            except (psycopg.Error, Error) as error:
                self._lose(error)
                return False
        with self._lock:
            self._missed = False
            self._busy_since = self._clock()
        return True

    def _lose(self, error: Exception) -> None:
        """Close the session, which presence opens again. The loops go on, because they look."""
        logger.warning("the worker is not notified of ripe jobs: %s", first_line(error))
        self.session.close()
