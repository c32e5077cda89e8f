"""What else the machine does during a run: how many commits per second it allows, and which cores others use."""

from __future__ import annotations

import os
import time
from pathlib import Path

from databases import connect
from usage import TICK, processes, tree

PROBE_SECONDS = 0.5


class Noise:
    """Measures from its creation until ``end``; both are at times when no other server and no child process runs."""

    def __init__(self) -> None:
        self._commits = commits()
        self._started = time.monotonic()
        self._busy, self._own = busy_seconds(), own_seconds()

    def end(self) -> dict[str, float]:
        """Return commits per second, before and after, and the number of cores that others have used in between."""
        busy, own = busy_seconds() - self._busy, own_seconds() - self._own
        foreign = max(0.0, busy - own) / (time.monotonic() - self._started)
        return {"commits/s before": self._commits, "commits/s after": commits(), "foreign cores": foreign}


def commits() -> float:
    """Return how many INSERTs of one row a single connection commits in a second."""
    with connect() as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS bench_noise (n bigint)")
        started, count = time.monotonic(), 0
        while time.monotonic() < started + PROBE_SECONDS:
            conn.execute("INSERT INTO bench_noise VALUES (%s)", [count], prepare=True)
            count += 1
        took = time.monotonic() - started
        conn.execute("DROP TABLE bench_noise")
    return count / took


def busy_seconds() -> float:
    """Return the CPU time that all processes, the kernel and other guests of the host have used, in seconds."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK


def own_seconds() -> float:
    """Return the CPU time of this process, its children, and the server, in seconds."""
    with connect() as conn:
        found = processes()
        return tree(found, os.getpid()) + tree(found, found[conn.info.backend_pid].parent)
