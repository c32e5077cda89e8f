"""Produce and drain at a steady rate while another session holds a snapshot."""

from __future__ import annotations

from functools import partial

from harness import Harness, Sample
from production import Setup, last_over_first, produce

NAME = "held_snapshot"
WHAT = "a producer and a worker, snapshot held"
LAST_OVER_FIRST = "last sixth over first"
PEERS = ("graphile", "floor", "pgqueuer", "procrastinate")
# For a contender that has no batch of its own.
BATCHES = {"floor": 100, "pgqueuer": 100}
ROUNDS = 2
SIXTH = 1 / 6


def run(harness: Harness) -> None:
    seconds, interval = harness.pick(120, 6), harness.pick(10, 1)
    kept: dict[str, list[float]] = {}

    def measure(name: str, seconds: float) -> Sample:
        setup = Setup(seconds, interval, batch=BATCHES.get(name), held=True, outstanding=harness.pick(5000, 1000))
        rates, sample = produce(name, setup)
        harness.results.series.setdefault(NAME, {})[name] = rates
        kept.setdefault(name, []).append(last_over_first(rates, SIXTH))
        return sample

    harness.compare(NAME, WHAT, "jobs/s", {"pgq": partial(measure, "pgq", seconds)}, harness.pick(ROUNDS, 1))
    peers = {name: partial(measure, name, seconds / 2) for name in PEERS}
    harness.compare(NAME, f"{WHAT}, half the time", "jobs/s", peers, 1)
    for name, values in kept.items():
        harness.record(NAME, LAST_OVER_FIRST, name, "x", values)
