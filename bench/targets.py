"""The bars that pgq has to meet, and whether this run met them. Each bar is here only."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness import OURS, Harness, Results, number
from scenarios import (
    bulk,
    drain,
    enqueue,
    fairness,
    groups,
    groups_held,
    held_snapshot,
    idle,
    latency,
    limited,
    plain_path,
    purge,
    queues,
    scale,
    single,
    steady,
    transactional,
    wal,
    workflow,
)

NOT_RUN = "not run"


@dataclass(frozen=True)
class Target:
    """One line of the table; ``measured`` is None if the scenario was not run."""

    what: str
    bar: str
    measured: float | None
    unit: str
    met: bool | None


def targets(harness: Harness) -> list[Target]:
    """Return all lines, from the measurements of this run only."""
    return list(_lines(harness, harness.results))


def markdown(lines: list[Target]) -> str:
    rows = ["| what | bar | measured | met |", "|---|---|---:|---|"]
    for line in lines:
        measured = NOT_RUN if line.measured is None else f"{number(line.measured)} {line.unit}"
        met = {True: "yes", False: "no", None: NOT_RUN}[line.met]
        rows.append(f"| {line.what} | {line.bar} | {measured} | {met} |")
    return "\n".join(rows) + "\n"


def _lines(harness: Harness, results: Results) -> Iterator[Target]:
    for major in ("", drain.OTHER):
        for processes, limit in ((1, 1.8), (2, 2.2)):
            what = drain.what(processes, major)
            yield _at_least(f"drain, {what}", limit, _ratio(results, drain.NAME, what, "graphile"), "graphile-worker")

    yield _at_least(steady.WHAT, 1.5, _ratio(results, steady.NAME, steady.WHAT, "graphile"), "graphile-worker")
    last = _median(results, steady.NAME, steady.LAST_OVER_FIRST)
    yield _at_least(f"{steady.WHAT}, last 30 s", 0.9, last, "the first")
    last = _median(results, held_snapshot.NAME, held_snapshot.LAST_OVER_FIRST)
    yield _at_least(f"{held_snapshot.WHAT}, last 20 s", 0.95, last, "the first")

    for clients, limit in ((1, 0.65), (16, 0.65), (64, 0.5)):
        what = enqueue.what(clients)
        single_ = f"enqueue one by one, {what}"
        yield _at_least(single_, limit, _ratio(results, enqueue.NAME, what, enqueue.BARE), "the bare INSERT")
        yield _at_least(single_, 1, _ratio(results, enqueue.NAME, what, enqueue.PGMQ), "pgmq.send")
    many = "enqueue_many of 1,000"
    yield _at_least(f"{many}, with dedup", 1, _ratio(results, bulk.NAME, bulk.WHAT, "pgmq"), "pgmq's send_batch")
    ratio = _ratio(results, bulk.NAME, bulk.WHAT, "pgmq", bulk.NO_DEDUP)
    yield _at_least(f"{many}, without dedup", 1.5, ratio, "pgmq's send_batch")

    for what, limit in ((transactional.SINGLE, 1.7), (transactional.GROUPED, 2.6)):
        ratio = _ratio(results, transactional.NAME, what, transactional.RELEASE)
        yield _at_least(f"transactional handler, {what}", limit, ratio, "0.2.0")
    for what in (transactional.CONCURRENT, transactional.CONCURRENT_GROUPED):
        ratio = _ratio(results, transactional.NAME, what, "graphile")
        yield _at_least(f"transactional handler, {what}", 0.5, ratio, "graphile-worker, at least once")
    yield _at_least(single.WHAT, 1.5, _ratio(results, single.NAME, single.WHAT, single.RELEASE), "0.2.0")

    yield from _workflows(results)

    for percent, limit in (("p50", 1.2), ("p99", 5.0)):
        what = f"pickup latency, {percent}"
        ratio = _ratio(results, latency.NAME, percent, "graphile")
        yield _target(what, "<= graphile-worker's", ratio, "x", operator.le, 1)
        yield _at_most(what, limit, _median(results, latency.NAME, percent), "ms")
    for name in queues.CLAIMS:
        for what in (queues.empty(name), queues.full(name)):
            yield _at_most(what, 2, _median(results, queues.NAME, what), "ms")
    yield _at_most(f"WAL: {wal.WHAT}", 750, _median(results, wal.NAME, wal.WHAT), "B")

    yield from _plain_jobs(results)

    for what in scale.comparisons(harness).values():
        ratio = _ratio(results, scale.NAME, what, scale.BASE)
        yield _target(f"claim, {what}", "<= 1.3 x a fresh small table", ratio, "x", operator.le, 1.3)
    dead = scale.comparisons(harness)["dead"]
    for what in (scale.FIRST, scale.FIRST_MAX):
        yield _at_most(f"{what}, {dead}", 50, _median(results, scale.NAME, what), "ms")
    for what in groups_held.VARIANTS:
        last = _median(results, groups_held.NAME, held_snapshot.LAST_OVER_FIRST, what)
        yield _at_least(f"{groups_held.WHAT}, {what}, last 10 s", 0.95, last, "the first")
    base = _ratio(results, groups.NAME, groups.FUTURE, groups.BASE)
    yield _target(f"claim, {groups.FUTURE}", "<= 2 x without groups", base, "x", operator.le, 2)
    rate = _median(results, groups.NAME, groups.FULL)
    yield _target(groups.FULL, ">= 200 a second", rate, "claims/s", operator.ge, 200)
    large = _median(results, fairness.NAME, fairness.LARGE_JOBS)
    yield _target(fairness.LARGE_JOBS, "<= 300", large, "jobs", operator.le, 300)
    yield _at_most(f"{limited.WHAT}: {limited.EXCEEDED}", 0, _median(results, limited.NAME, limited.EXCEEDED), "%")
    for what in (purge.CLAIM, purge.CLAIM_P99):
        ratio = _ratio(results, purge.NAME, what, purge.BASE)
        yield _target(f"{what}, old jobs are deleted", "<= 1.1 x none is old", ratio, "x", operator.le, 1.1)
    last = _median(results, purge.NAME, purge.STEP_LAST, purge.HELD)
    yield _target("step of a deletion, snapshot held, last tenth", "<= 1.5 x the first", last, "x", operator.le, 1.5)

    yield _at_most("idle worker, queries", 1, _median(results, idle.NAME, idle.QUERIES), "/s")
    yield _at_most("idle worker, CPU", 0.5, _median(results, idle.NAME, idle.CPU), "% of a core")
    yield _at_most("claim on an empty queue", 1, _median(results, scale.NAME, scale.EMPTY), "ms")


def _plain_jobs(results: Results) -> Iterator[Target]:
    for path in plain_path.PATHS:
        cpu = _ratio(results, plain_path.NAME, path, plain_path.BASE)
        yield _target(f"server CPU of a plain job, {path}", f"<= 1.03 x {plain_path.BASE}", cpu, "x", operator.le, 1.03)


def _workflows(results: Results) -> Iterator[Target]:
    for writes in (False, True):
        for processes in workflow.PROCESSES:
            what = workflow.what(processes, writes=writes)
            ratios = [_ratio(results, workflow.NAME, what, peer) for peer in workflow.PEERS]
            measured = min((ratio for ratio in ratios if ratio is not None), default=None)
            yield _at_least(f"workflow, {what}", 3, measured, "the faster of DBOS and Absurd")


def _target(
    what: str, bar: str, measured: float | None, unit: str, reaches: Callable[[float, float], bool], limit: float
) -> Target:
    return Target(what, bar, measured, unit, None if measured is None else reaches(measured, limit))


def _at_least(what: str, limit: float, measured: float | None, yardstick: str) -> Target:
    return _target(what, f"{limit:g} x {yardstick}", measured, "x", operator.ge, limit)


def _at_most(what: str, limit: float, measured: float | None, unit: str) -> Target:
    return _target(what, f"<= {limit:g} {unit}", measured, unit, operator.le, limit)


def _median(results: Results, scenario: str, what: str, contender: str = OURS) -> float | None:
    found = results.find(scenario, what, contender)
    return found.median if found else None


def _ratio(results: Results, scenario: str, what: str, yardstick: str, ours: str = OURS) -> float | None:
    one, other = results.find(scenario, what, ours), results.find(scenario, what, yardstick)
    return one.ratio_to(other) if one and other else None
