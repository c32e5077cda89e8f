"""Produce and drain at a steady rate while another session holds a snapshot."""

from __future__ import annotations

import contextlib
import time

from child import Task
from contenders import by_name
from databases import fresh, held_snapshot
from harness import Harness
from processes import Processes
from roles import CHUNK

NAME = "held_snapshot"
LAST_OVER_FIRST = "last interval over first"
CONTENDERS = ("pgq", "floor", "pgqueuer", "procrastinate")
CONTROL = "pgq, no snapshot held"
BATCH = 100


def run(harness: Harness) -> None:
    for name in CONTENDERS:
        record(harness, name, measure(harness, name, held=True))
    if not harness.quick:
        record(harness, CONTROL, measure(harness, "pgq", held=False))


def measure(harness: Harness, name: str, held: bool) -> list[tuple[float, float]]:
    """Return, for each interval, its end in seconds and the jobs handled per second."""
    contender = by_name(name)
    interval = harness.pick(10.0, 1.5)
    rates: list[tuple[float, float]] = []
    with fresh(contender) as database, contextlib.ExitStack() as stack:
        batch = None if name == "procrastinate" else BATCH
        task = Task(database, batch, outstanding=harness.pick(5000, 1000))
        children = stack.enter_context(Processes(contender, task, producers=1))
        with held_snapshot(database) if held else contextlib.nullcontext():
            children.wait_ready()
            children.start()
            # The idle worker's wait for its first jobs is not measured.
            children.wait_for(CHUNK)
            at, handled = time.monotonic(), children.handled
            for number in range(1, harness.pick(12, 4) + 1):
                children.wait_until(at + interval)
                before, at = at, time.monotonic()
                count, handled = children.handled - handled, children.handled
                rates.append((number * interval, count / (at - before)))
        children.finish()
    return rates


def record(harness: Harness, contender: str, rates: list[tuple[float, float]]) -> None:
    """Record the intervals of a contender."""
    harness.results.series.setdefault(NAME, {})[contender] = rates
    for number, what in ((0, "first interval"), (-1, "last interval")):
        harness.record(NAME, what, contender, "jobs/s", [rates[number][1]])
    harness.record(NAME, LAST_OVER_FIRST, contender, "x", [rates[-1][1] / rates[0][1]])
