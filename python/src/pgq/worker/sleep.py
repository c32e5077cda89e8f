"""How a loop sleeps until a job is ripe."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from pgq.worker.idle import IdleLoops
from pgq.worker.session import Session
from pgq.worker.settings import RunState, Settings
from pgq.worker.wakeup import Wakeup


class Sleep:
    """
    The sleep of a loop that has found no ripe job, and is among the ``idle`` ones.

    ``wait`` sleeps for some seconds, or until it is woken; it returns whether the connection is lost.
    """

    def __init__(
        self,
        settings: Settings,
        state: RunState,
        session: Session,
        idle: IdleLoops,
        loop: Wakeup,
        wait: Callable[[float | None, int], bool],
    ) -> None:
        self._settings = settings
        self._state = state
        self._session = session
        self._idle = idle
        self._loop = loop
        self._wait = wait
        self._again = 0.0

    def forget(self) -> None:
        """Forget the ripe jobs that no claim could take: a claim has found jobs."""
        self._again = 0.0

    def until_ripe(self, socket: int) -> None:
        """Sleep until the loop is to claim, the connection is lost, or the worker stops."""
        timing = self._settings.timing
        while self._idle.is_asleep(self._loop) and not self._state.stopping:
            if not self._idle.keeps_time(self._loop):
                if self._wait(None, socket):
                    return
                continue
            seconds, is_ripe_then = self.look()
            until = timing.clock() + seconds
            if self._wait(seconds, socket):
                return
            # A wait that ends early is followed by another look.
            if is_ripe_then and timing.clock() >= until:
                if not self._idle.wake_one(but=self._loop):
                    return
                self._again = max(self._again, timing.look_again)

    def look(self) -> tuple[float, bool]:
        """
        Return for how many seconds to sleep, and whether a job is ripe then.

        A job that is ripe already has become so after the last claim, or another transaction has it locked.
        """
        timing = self._settings.timing
        with self._session.lock, self._session.interruptible():
            ripe_in = self._session.queue().ripe_in(self._settings.queues)
        self._idle.looked_at = timing.clock()
        longest = self._idle.look_after
        if ripe_in is None or ripe_in.total_seconds() > longest:
            self._again = 0.0
            return longest, False
        if ripe_in > timedelta(0):
            self._again = 0.0
            return ripe_in.total_seconds(), True
        seconds = min(self._again, longest)
        self._again = max(2 * self._again, timing.look_again)
        return seconds, True
