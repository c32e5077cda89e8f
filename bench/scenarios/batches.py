"""Drain a full queue in batches of several sizes, beside the floor and beside other queues for Python."""

from __future__ import annotations

from functools import partial

from harness import Harness

from scenarios.drain import rate

NAME = "batches"
ROUNDS = 2
# Jobs of a full and of a quick run, by batch. Smaller batches are slower, and get fewer jobs.
JOBS = {1: (5_000, 500), 10: (20_000, 2_000), 100: (100_000, 20_000), 300: (100_000, 20_000)}
SLOW_JOBS = (2_000, 500)
PEERS = ("pgmq", "pgqueuer")
PEER_BATCH = 100


def run(harness: Harness) -> None:
    for batch, jobs in JOBS.items():
        rates = {name: partial(rate, name, harness.pick(*jobs), 1, batch) for name in ("pgq", "floor")}
        if batch == PEER_BATCH:
            rates |= {name: partial(rate, name, harness.pick(*jobs), 1, batch) for name in PEERS}
            rates["procrastinate"] = partial(rate, "procrastinate", harness.pick(*SLOW_JOBS))
        harness.compare(NAME, what(batch), "jobs/s", rates, harness.pick(ROUNDS, 1))


def what(batch: int) -> str:
    return f"batches of {batch}"
