"""What is done to the workers and to the server while they work; all of it is drawn from one seed."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg

from torture.fleet import Fleet, Member, children

SESSIONS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
    "AND (application_name LIKE 'pgq %' OR application_name LIKE 'own %') ORDER BY pid"
)
TICK = 0.02


@dataclass(frozen=True)
class Weather:
    """How often something happens, in seconds, and how likely is what; how long a freeze lasts, in leases."""

    every: float = 0.4
    acts: Mapping[str, int] = field(
        default_factory=lambda: {"kill": 6, "freeze": 6, "cut": 6, "cut all": 1, "stop": 3, "stop twice": 2}
    )
    freeze: tuple[float, float] = (0.1, 2.5)


class Chaos:
    """Strikes when it is time; ``counts`` says how often, and ``told_twice`` who was told twice to stop."""

    def __init__(self, fleet: Fleet, dsn: str, rng: Random, weather: Weather) -> None:
        self.counts: Counter[str] = Counter()
        self.told_twice: set[int] = set()
        self._fleet = fleet
        self._dsn = dsn
        self._rng = rng
        self._weather = weather
        self._thaws: list[tuple[float, Member]] = []

    def rage(self, seconds: float, restarts: int, restart: Callable[[], None], is_enough: Callable[[], bool]) -> None:
        """Go on for so long, or until it is enough, with so many restarts of the server spread over the time."""
        began = time.monotonic()
        due = [began + seconds * (n + self._rng.uniform(0.7, 1)) / (restarts + 1) for n in range(restarts)]
        next_at = began
        try:
            while (now := time.monotonic()) < began + seconds and not is_enough():
                self._fleet.tend()
                self._thaw(now)
                if due and now >= due[0]:
                    due.pop(0)
                    restart()
                    self.counts["restart"] += 1
                if now >= next_at:
                    next_at = now + self._rng.expovariate(1 / self._weather.every)
                    (act,) = self._rng.choices(list(self._weather.acts), list(self._weather.acts.values()))
                    # Of its own: how much is drawn depends on who is there.
                    self._strike(act, Random(self._rng.random()))
                time.sleep(TICK)
        finally:
            self._thaw(float("inf"))

    def _strike(self, act: str, rng: Random) -> None:
        self.counts[act] += 1
        if act == "cut":
            self._cut(1, rng)
            return
        if act == "cut all":
            self._cut(1000, rng)
            return
        members = self._fleet.members()
        if not members:
            return
        victim = rng.choice(members)
        if act == "kill":
            self._fleet.signal(victim, signal.SIGKILL)
        elif act == "freeze":
            self._fleet.signal(victim, signal.SIGSTOP)
            self._thaws.append((time.monotonic() + self._fleet.lease * rng.uniform(*self._weather.freeze), victim))
        elif act == "stop":
            self._fleet.signal(victim, signal.SIGTERM)
        else:
            # The jobs that run there are released, and their attempts do not count.
            self.told_twice |= {victim.pid, *children(victim.pid)}
            self._fleet.signal(victim, signal.SIGTERM)
            time.sleep(0.05)
            self._fleet.signal(victim, signal.SIGTERM)

    def _thaw(self, now: float) -> None:
        for at, member in self._thaws.copy():
            if now >= at:
                self._thaws.remove((at, member))
                self._fleet.signal(member, signal.SIGCONT)

    def _cut(self, sessions: int, rng: Random) -> None:
        """End sessions of workers, and of handlers."""
        try:
            with psycopg.connect(self._dsn, autocommit=True) as conn:
                pids: list[tuple[Any, ...]] = conn.execute(SESSIONS).fetchall()
                for (pid,) in rng.sample(pids, min(sessions, len(pids))):
                    conn.execute("SELECT pg_terminate_backend(%s)", [pid])
        except psycopg.OperationalError:
            return
