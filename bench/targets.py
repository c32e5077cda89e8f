"""The targets of pgq, and whether this run reached them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness import OURS, Harness, Results, number
from scenarios import bulk, drain, enqueue, held_snapshot, idle, latency, scale

NOT_RUN = "not run"


@dataclass(frozen=True)
class Target:
    """One line of the table; ``measured`` is None if the scenario was not run."""

    what: str
    wanted: str
    measured: float | None
    unit: str
    reached: bool | None


def targets(harness: Harness) -> list[Target]:
    """Return all lines, from the measurements of this run only."""
    return list(_lines(harness, harness.results))


def markdown(lines: list[Target]) -> str:
    rows = ["| what | at least | measured | reached |", "|---|---|---:|---|"]
    for line in lines:
        measured = NOT_RUN if line.measured is None else f"{number(line.measured)} {line.unit}"
        reached = {True: "yes", False: "no", None: NOT_RUN}[line.reached]
        rows.append(f"| {line.what} | {line.wanted} | {measured} | {reached} |")
    return "\n".join(rows) + "\n"


def _lines(harness: Harness, results: Results) -> Iterator[Target]:
    one = drain.what(100, 1)
    yield _at_least("drain, batch 100, one process", 0.5, _ratio(results, drain.NAME, one, "floor"), "the floor")
    yield _at_least("drain, batch 100, one process", 4, _ratio(results, drain.NAME, one, "pgqueuer"), "pgqueuer")
    two = _quotient(_median(results, drain.NAME, drain.what(300, 2)), _median(results, drain.NAME, one))
    yield _at_least("drain, batch 300, two processes", 2.5, two, "its own batch 100, one process")

    many = enqueue.what(enqueue.CLIENTS[-1])
    single = f"enqueue one by one, {many}"
    yield _at_least(single, 0.8, _ratio(results, enqueue.NAME, many, enqueue.FLOOR), "the bare INSERT")
    yield _at_least(single, 3, _ratio(results, enqueue.NAME, many, enqueue.NOTIFY), "itself with NOTIFY on each")
    yield _at_least("enqueue_many", 0.4, _ratio(results, bulk.NAME, bulk.WHAT, "floor"), "the floor's bulk insert")
    rate = _median(results, bulk.NAME, bulk.WHAT)
    yield _target("enqueue_many", "50,000 jobs/s", rate, "jobs/s", operator.ge, 50_000)

    for percent, limit in (("p50", 1.2), ("p99", 5.0)):
        wait = _median(results, latency.NAME, percent)
        yield _at_most(f"pickup latency, {percent}", limit, wait, "ms")

    last = _median(results, held_snapshot.NAME, held_snapshot.LAST_OVER_FIRST)
    yield _at_least("held snapshot, last interval", 0.95, last, "the first")

    for what in scale.comparisons(harness).values():
        ratio = _ratio(results, scale.NAME, what, scale.BASE)
        yield _target(f"claim, {what}", "<= 1.3 x a fresh small table", ratio, "x", operator.le, 1.3)
    dead = scale.comparisons(harness)["dead"]
    for what in (scale.FIRST, scale.FIRST_MAX):
        yield _at_most(f"{what}, {dead}", 50, _median(results, scale.NAME, what), "ms")

    yield _at_most("idle worker, queries", 1, _median(results, idle.NAME, idle.QUERIES), "/s")
    yield _at_most("idle worker, CPU", 0.5, _median(results, idle.NAME, idle.CPU), "% of a core")
    yield _at_most("claim on an empty queue", 1, _median(results, scale.NAME, scale.EMPTY), "ms")


def _target(
    what: str, wanted: str, measured: float | None, unit: str, reaches: Callable[[float, float], bool], limit: float
) -> Target:
    return Target(what, wanted, measured, unit, None if measured is None else reaches(measured, limit))


def _at_least(what: str, limit: float, measured: float | None, yardstick: str) -> Target:
    return _target(what, f"{limit:g} x {yardstick}", measured, "x", operator.ge, limit)


def _at_most(what: str, limit: float, measured: float | None, unit: str) -> Target:
    return _target(what, f"<= {limit:g} {unit}", measured, unit, operator.le, limit)


def _median(results: Results, scenario: str, what: str, contender: str = OURS) -> float | None:
    found = results.find(scenario, what, contender)
    return found.median if found else None


def _ratio(results: Results, scenario: str, what: str, yardstick: str) -> float | None:
    return _quotient(_median(results, scenario, what), _median(results, scenario, what, yardstick))


def _quotient(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None
