"""Produce and drain steadily while another session holds a snapshot."""

from __future__ import annotations

import contextlib
import time

from crew import Crew
from databases import fresh, held_snapshot
from duty import CHUNK, Task
from harness import Bench
from queues import by_name

NAME = "held_snapshot"
LAST_OVER_FIRST = "last interval over first"
CONTENDERS = ("pgq", "floor", "pgqueuer", "procrastinate")
CONTROL = "pgq, no snapshot held"
BATCH = 100


def run(bench: Bench) -> None:
    for name in CONTENDERS:
        show(bench, name, measure(bench, name, held=True))
    if not bench.quick:
        show(bench, CONTROL, measure(bench, "pgq", held=False))


def measure(bench: Bench, name: str, held: bool) -> list[tuple[float, float]]:
    """The end of each interval in seconds, and the jobs a second that were handled in it."""
    contender = by_name(name)
    interval = bench.pick(10.0, 1.5)
    rates: list[tuple[float, float]] = []
    with fresh(contender) as database, contextlib.ExitStack() as stack:
        batch = None if name == "procrastinate" else BATCH
        task = Task(database, batch, outstanding=bench.pick(5000, 1000))
        crew = stack.enter_context(Crew(contender, task, producers=1))
        with held_snapshot(database) if held else contextlib.nullcontext():
            crew.ready()
            crew.go()
            # An idle worker's wait for the first job belongs to no interval.
            crew.wait_for(CHUNK)
            at, handled = time.monotonic(), crew.handled
            for number in range(1, bench.pick(12, 4) + 1):
                crew.wait_until(at + interval)
                before, at = at, time.monotonic()
                count, handled = crew.handled - handled, crew.handled
                rates.append((number * interval, count / (at - before)))
        crew.finish()
    return rates


def show(bench: Bench, contender: str, rates: list[tuple[float, float]]) -> None:
    bench.results.series.setdefault(NAME, {})[contender] = rates
    for number, what in ((0, "first interval"), (-1, "last interval")):
        bench.record(NAME, what, contender, "jobs/s", [rates[number][1]])
    bench.record(NAME, LAST_OVER_FIRST, contender, "x", [rates[-1][1] / rates[0][1]])
