"""A producer and workers that run for a time: the jobs per second in each interval."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from child import Task
from contenders import by_name
from databases import connect, fresh, held_snapshot
from harness import Sample
from processes import Processes
from roles import CHUNK


@dataclass(frozen=True)
class Setup:
    """
    How long a producer and so many workers run, and in which intervals they are measured; in seconds.

    The producer pauses while more than ``outstanding`` jobs are not handled.
    """

    seconds: float
    interval: float
    workers: int = 1
    outstanding: int = 5000
    batch: int | None = None
    held: bool = False


def produce(name: str, setup: Setup) -> tuple[list[tuple[float, float]], Sample]:
    """Return, for each interval, its end and the jobs handled per second; and the jobs per second with their cost."""
    contender = by_name(name)
    rates: list[tuple[float, float]] = []
    with fresh(contender) as database, connect(database) as conn, contextlib.ExitStack() as stack:
        task = Task(database, setup.batch, outstanding=setup.outstanding)
        children = stack.enter_context(Processes(contender, task, setup.workers, producers=1))
        with held_snapshot(database) if setup.held else contextlib.nullcontext():
            children.wait_ready()
            children.start()
            # The wait of idle workers for their first jobs is not measured.
            children.wait_for(CHUNK)
            used, started = children.usage(conn), time.monotonic()
            at, first = started, children.handled
            handled = first
            for number in range(1, round(setup.seconds / setup.interval) + 1):
                children.wait_until(started + number * setup.interval)
                before, at = at, time.monotonic()
                count, handled = children.handled - handled, children.handled
                rates.append((number * setup.interval, count / (at - before)))
            costs = children.usage(conn).since(used, handled - first)
        children.finish()
    return rates, Sample((handled - first) / (at - started), costs)


def last_over_first(rates: Sequence[tuple[float, float]], part: float) -> float:
    """Return the mean of the last intervals, so large a part of all, divided by that of as many first ones."""
    count = max(1, round(len(rates) * part))
    return sum(rate for _, rate in rates[-count:]) / sum(rate for _, rate in rates[:count])
