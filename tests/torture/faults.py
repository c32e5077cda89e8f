"""The faults that strike workers and server while they work. All are drawn from one seed."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg

from torture import limits
from torture.workers import Process, Workers, children

SESSIONS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
    "AND (application_name LIKE 'pgq %' OR application_name LIKE 'own %') ORDER BY pid"
)
TICK = 0.02
# A loaded machine gets so many times the planned seconds until enough has happened.
OVERTIME = 8


@dataclass(frozen=True)
class FaultPlan:
    """
    Which faults strike, and how often.

    ``every`` is the mean time between faults in seconds, ``weights`` how likely each kind is, and ``freeze`` the
    shortest and longest freeze as multiples of the lease.
    """

    every: float = 0.4
    weights: Mapping[str, int] = field(
        default_factory=lambda: {
            "kill": 6,
            "freeze": 6,
            "cut": 6,
            "cut all": 1,
            "stop": 3,
            "stop twice": 2,
            "limit": 4,
            "pause": 2,
        }
    )
    freeze: tuple[float, float] = (0.1, 2.5)


class Injector:
    """
    Injects faults into workers, and into what they and handlers do in each of the databases.

    ``counts`` counts them by kind; ``stopped_twice`` holds the numbers of the processes that were told twice to stop.
    """

    def __init__(self, workers: Workers, dsns: Sequence[str], rng: Random, plan: FaultPlan) -> None:
        self.counts: Counter[str] = Counter()
        self.stopped_twice: set[int] = set()
        self._stopped: set[int] = set()
        self._workers = workers
        self._dsns = dsns
        self._rng = rng
        self._plan = plan
        self._thaws: list[tuple[float, Process]] = []

    def run(
        self,
        seconds: float,
        restarts: int,
        restart: Callable[[], None],
        *,
        ends_early: Callable[[], bool],
        is_enough: Callable[[], bool],
    ) -> None:
        """
        Inject faults for some seconds, and spread restarts of the server over that time.

        The run ends before when ``ends_early``, and goes on for up to OVERTIME times as long until it ``is_enough``.
        """
        began = time.monotonic()
        due = [began + seconds * (n + self._rng.uniform(0.7, 1)) / (restarts + 1) for n in range(restarts)]
        next_at = began
        try:
            while not ends_early():
                now = time.monotonic()
                if now > began + OVERTIME * seconds or (now > began + seconds and is_enough()):
                    break
                self._workers.replace_ended()
                self._thaw(now)
                if due and now >= due[0]:
                    due.pop(0)
                    restart()
                    self.counts["restart"] += 1
                if now >= next_at:
                    next_at = now + self._rng.expovariate(1 / self._plan.every)
                    (kind,) = self._rng.choices(list(self._plan.weights), list(self._plan.weights.values()))
                    # Each fault has its own generator: how much it draws depends on the processes that exist then.
                    self._inject(kind, Random(self._rng.random()))
                time.sleep(TICK)
        finally:
            self._thaw(float("inf"))

    def _inject(self, kind: str, rng: Random) -> None:
        self.counts[kind] += 1
        dsn = rng.choice(self._dsns)
        if kind == "cut":
            self._cut(dsn, 1, rng)
            return
        if kind == "cut all":
            self._cut(dsn, 1000, rng)
            return
        if kind == "limit":
            limits.change(dsn, rng)
            return
        if kind == "pause":
            limits.pause(dsn, rng)
            return
        processes = self._workers.processes()
        if not processes:
            return
        victim = rng.choice(processes)
        if kind == "kill":
            self._workers.signal(victim, signal.SIGKILL)
        elif kind == "freeze":
            self._workers.signal(victim, signal.SIGSTOP)
            self._thaws.append((time.monotonic() + self._workers.lease * rng.uniform(*self._plan.freeze), victim))
        elif kind == "stop":
            self._stop(victim)
        else:
            # The children of a process that ends after the first signal get no second one from here.
            self.stopped_twice |= self._stop(victim)
            time.sleep(0.05)
            self._stop(victim)

    def _stop(self, victim: Process) -> set[int]:
        """
        Send SIGTERM, and return the processes that it reaches.

        The second one makes a process release the jobs that run there, without their attempts.
        """
        told = {victim.pid, *children(victim.pid)}
        self.stopped_twice |= told & self._stopped
        self._stopped |= told
        self._workers.signal(victim, signal.SIGTERM)
        return told

    def _thaw(self, now: float) -> None:
        """Continue processes whose freeze is over."""
        for at, process in self._thaws.copy():
            if now >= at:
                self._thaws.remove((at, process))
                self._workers.signal(process, signal.SIGCONT)

    def _cut(self, dsn: str, sessions: int, rng: Random) -> None:
        """Terminate sessions of workers and of handlers."""
        try:
            with psycopg.connect(dsn, autocommit=True, connect_timeout=limits.CONNECTS_WITHIN) as conn:
                pids: list[tuple[Any, ...]] = conn.execute(SESSIONS).fetchall()
                for (pid,) in rng.sample(pids, min(sessions, len(pids))):
                    conn.execute("SELECT pg_terminate_backend(%s)", [pid])
        except psycopg.OperationalError:
            return
