"""A producer and two workers for two minutes, with autovacuum on, beside graphile-worker."""

from __future__ import annotations

from functools import partial

from harness import Harness, Sample
from production import Setup, last_over_first, produce

NAME = "steady"
WHAT = "a producer and two workers"
LAST_OVER_FIRST = "last quarter over first"
CONTENDERS = ("pgq", "graphile")
ROUNDS = 2
QUARTER = 0.25


def run(harness: Harness) -> None:
    setup = Setup(harness.pick(120, 8), harness.pick(10, 1), workers=2, outstanding=10_000)
    kept: dict[str, list[float]] = {}

    def measure(name: str) -> Sample:
        rates, sample = produce(name, setup)
        harness.results.series.setdefault(NAME, {})[name] = rates
        kept.setdefault(name, []).append(last_over_first(rates, QUARTER))
        return sample

    rounds = harness.pick(ROUNDS, 1)
    harness.compare(NAME, WHAT, "jobs/s", {name: partial(measure, name) for name in CONTENDERS}, rounds)
    for name, values in kept.items():
        harness.record(NAME, LAST_OVER_FIRST, name, "x", values)
