"""Produce and drain jobs in groups while another session holds a snapshot, without a limit and with one."""

from __future__ import annotations

from functools import partial

from harness import Harness, Sample
from production import Setup, last_over_first, produce

from scenarios.held_snapshot import LAST_OVER_FIRST, SIXTH

NAME = "groups_held"
WHAT = "a producer and a worker, snapshot held"
# Half of what held_snapshot takes: there are five of these.
SECONDS = 60
VARIANTS = {
    "pgq": "pgq",
    "10 groups": "grouped:10",
    "10 groups, limited": "grouped:10:50",
    "1,000 groups": "grouped:1000",
    "1,000 groups, limited": "grouped:1000:5",
}


def run(harness: Harness) -> None:
    setup = Setup(harness.pick(SECONDS, 6), harness.pick(SECONDS / 12, 1), held=True)
    kept: dict[str, float] = {}

    def measure(name: str) -> Sample:
        rates, sample = produce(VARIANTS[name], setup)
        harness.results.series.setdefault(NAME, {})[name] = rates
        kept[name] = last_over_first(rates, SIXTH)
        return sample

    harness.compare(NAME, WHAT, "jobs/s", {name: partial(measure, name) for name in VARIANTS}, 1)
    for name, value in kept.items():
        harness.record(NAME, LAST_OVER_FIRST, name, "x", [value])
