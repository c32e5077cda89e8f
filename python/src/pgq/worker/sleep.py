"""How a loop sleeps until a job is ripe."""

from __future__ import annotations

from datetime import timedelta
from math import inf

from pgq.handlers import Handlers
from pgq.job import Remaining
from pgq.worker.idle import IdleLoops
from pgq.worker.liveness import Liveness
from pgq.worker.served import ServedQueues
from pgq.worker.session import Session
from pgq.worker.settings import RunState, Settings
from pgq.worker.wakeup import Wakeup


class Sleep:
    """
    The sleep of a loop that has found no ripe job, and is then among the ``idle`` ones.

    ``found`` tells whether the last claim has found jobs.
    """

    def __init__(
        self,
        settings: Settings,
        state: RunState,
        session: Session,
        handlers: Handlers,
        idle: IdleLoops,
        served: ServedQueues,
        loop: Wakeup,
        liveness: Liveness,
    ) -> None:
        self._settings = settings
        self._state = state
        self._session = session
        self._handlers = handlers
        self._idle = idle
        self._served = served
        self._loop = loop
        self._liveness = liveness
        self._again = 0.0
        self.found = False

    def note(self, *, found: bool) -> None:
        """
        Note whether a claim has found jobs.

        Declare the session awake only at the second claim in a row that has, so that a worker that is woken for single
        jobs saves a round trip.
        """
        if found:
            if self.found:
                self._idle.declare_awake_if_busy(at_once=True)
            # The ripe jobs that no claim could take may be among them.
            self._again = 0.0
        self.found = found

    def rest(self) -> bool:
        """
        Sleep until there may be something to do; return true when the worker is drained instead.

        Of the loops that sleep, one looks, at most ``poll`` seconds after its last look. When a job is ripe it claims,
        or wakes another loop to do so. All wait for notifications. A loop that is to be drained only waits.
        """
        settings = self._settings
        with self._session.lock, self._session.interruptible():
            queue = self._session.queue()
            seconds = None
            if settings.drain is not None:
                self._served.search(queue, at_once=True)
                names = self._served.names
                remaining = queue.remaining(names, self._handlers.kinds) if names else Remaining(None, False)
                if settings.drain.is_reached(remaining):
                    return True
                seconds = settings.drain.sleep(remaining, settings.poll)
            socket = queue.conn.fileno()
        if not self._idle.enter(self._loop):
            return False
        try:
            if seconds is not None:
                self._wait(seconds, socket)
            else:
                self.until_ripe(socket)
        finally:
            self._idle.leave(self._loop)
            self._liveness.note(settings.timing.clock())
        return False

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
            queue = self._session.queue()
            self._served.search(queue, at_once=True)
            ripe_in = queue.ripe_in(self._served.names) if self._served.names else None
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

    def _wait(self, seconds: float | None, socket: int) -> bool:
        """Sleep; return whether the connection is lost. While it sleeps the loop counts as well."""
        self._liveness.note(self._settings.timing.clock(), inf if seconds is None else seconds)
        return bool(self._loop.wait(seconds, socket))
