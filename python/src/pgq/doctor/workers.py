"""Workers that are gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.words import number


@check(Needs.READER | Needs.PRIMARY)
def worker_gone(reading: Reading) -> Iterator[Finding]:
    """Yield workers that were registered, and whose sessions have ended without a word."""
    for worker in reading.workers:
        if worker["present"] or worker["registered_at"] is None:
            continue
        where = f" on {worker['host']}" if worker["host"] else ""
        jobs = number(worker["running"], "job")
        yield Finding(
            "worker-gone",
            "warning",
            f'worker "{worker["name"]}"{where} is gone, and held {jobs}',
            "Its process was killed, or its connection is lost. The next claims of other workers take its jobs back, "
            "usually within two seconds, and forget the worker ten seconds later. A worker that this finding names for "
            "longer is missed by nobody who claims.",
            "See in the log of the worker why it ended, and start it again; a worker that serves the same queues takes "
            "its jobs.",
            {"worker": worker["name"], "host": worker["host"], "pid": worker["pid"], "queues": worker["queues"],
             "running": worker["running"], "registered_at": worker["registered_at"]},
        )  # fmt: skip


CHECKS: Final[tuple[Check, ...]] = (worker_gone,)
