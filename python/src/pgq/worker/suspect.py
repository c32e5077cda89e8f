"""How a loop runs a suspect alone, and waits while another loop does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pgq.worker.liveness import Liveness
from pgq.worker.settings import RunState, Settings
from pgq.worker.wakeup import Wakeup

# Seconds between two looks at a gate, should a wake-up be lost.
LONGEST_WAIT = 1.0


class LoopAtGate:
    """One loop at the gate of its process. The gate knows it by its ``wakeup``."""

    def __init__(self, settings: Settings, state: RunState, wakeup: Wakeup, liveness: Liveness) -> None:
        self._settings = settings
        self._state = state
        self._gate = state.gate
        self._wakeup = wakeup
        self._liveness = liveness
        self._clock = settings.timing.clock
        self._gate.wakeups.append(wakeup)

    def enter(self, let_go: Callable[[], None]) -> bool:
        """
        Note that the loop may hold jobs. Wait while another loop runs a suspect; return false when the worker stops.

        Before it waits, ``let_go`` is called, after which the loop holds no job.
        """
        while not self._gate.enter(self._wakeup, self._clock()):
            let_go()
            self._gate.leave(self._wakeup)
            if self._state.stopping:
                return False
            self._wait(LONGEST_WAIT)
        return True

    def leave(self) -> None:
        """Note that the loop holds no job."""
        self._gate.leave(self._wakeup)

    def close(self) -> None:
        """Leave for good."""
        self._gate.leave(self._wakeup)
        if self._wakeup in self._gate.wakeups:
            self._gate.wakeups.remove(self._wakeup)

    def is_closed(self, now: float) -> bool:
        """Return whether another loop runs a suspect, or waits to do so."""
        return self._gate.is_closed(self._wakeup, now)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """
        Keep the other loops from holding jobs in this context; yield false if another loop does the same.

        Wait until they hold none. When they take too long, the context is entered all the same.
        """
        timing, gate, now = self._settings.timing, self._gate, self._clock()
        until = now + min(timing.alone_within, self._settings.begin_within)
        if not gate.close(self._wakeup, now, until):
            yield False
            return
        try:
            while not gate.is_alone(self._wakeup) and not self._state.stopping and (now := self._clock()) < until:
                self._wait(min(until - now, LONGEST_WAIT))
            gate.close(self._wakeup, now, self._clock() + timing.alone_for)
            yield True
        finally:
            gate.open(self._wakeup)

    def _wait(self, seconds: float) -> None:
        self._wakeup.wait(seconds)
        self._liveness.note(self._clock())
