"""One job at a time: ``pgq worker --batch 1``, beside the release before."""

from __future__ import annotations

from functools import partial

from harness import Harness, Sample

from scenarios.drain import rate

NAME = "single"
WHAT = "--batch 1, 1 process"
RELEASE = "0.2.0"


def run(harness: Harness) -> None:
    jobs = harness.pick(8_000, 1_000)
    harness.compare(NAME, WHAT, "jobs/s", {name: partial(one_by_one, name, jobs) for name in ("pgq", RELEASE)})


def one_by_one(name: str, jobs: int) -> Sample:
    return rate("release" if name == RELEASE else name, jobs, batch=1)
