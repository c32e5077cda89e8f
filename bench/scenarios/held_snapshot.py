"""Produce and drain at a steady rate while another session holds a snapshot."""

from __future__ import annotations

from functools import partial

from harness import Harness, Sample
from production import Setup, last_over_first, produce

NAME = "held_snapshot"
WHAT = "a producer and a worker, snapshot held"
LAST_OVER_FIRST = "last sixth over first"
# The others take part for half of the time, and once.
CONTENDERS = ("pgq", "graphile")
PEERS = ("floor", "pgqueuer", "procrastinate")
ROUNDS = 2
SIXTH = 1 / 6
PEER_BATCH = 100


def run(harness: Harness) -> None:
    seconds, interval = harness.pick(120, 6), harness.pick(10, 1)
    kept: dict[str, list[float]] = {}

    def measure(name: str, setup: Setup) -> Sample:
        rates, sample = produce(name, setup)
        harness.results.series.setdefault(NAME, {})[name] = rates
        kept.setdefault(name, []).append(last_over_first(rates, SIXTH))
        return sample

    setup = Setup(seconds, interval, held=True, outstanding=harness.pick(5000, 1000))
    both = {name: partial(measure, name, setup) for name in CONTENDERS}
    harness.compare(NAME, WHAT, "jobs/s", both, harness.pick(ROUNDS, 1))
    for name in PEERS:
        batch = None if name == "procrastinate" else PEER_BATCH
        shorter = Setup(seconds / 2, interval, batch=batch, held=True, outstanding=setup.outstanding)
        harness.compare(NAME, f"{WHAT}, half the time", "jobs/s", {name: partial(measure, name, shorter)}, 1)
    for name, values in kept.items():
        harness.record(NAME, LAST_OVER_FIRST, name, "x", values)
