"""Two workers on a queue of which ten jobs may run at a time: their speed, and how often the limit is exceeded."""

from __future__ import annotations

import threading
from functools import partial

from child import Task
from contenders import by_name
from databases import connect, fresh, value
from harness import Harness, Sample
from processes import Processes

from scenarios.drain import fill

NAME = "limited"
LIMIT = 10
# One worker alone must not take all places.
BATCH = LIMIT // 2
WHAT = f"two workers, at most {LIMIT} running jobs"
EXCEEDED = f"samples with more than {LIMIT} running jobs"
HIGHEST = "most running jobs in a sample"
RUNNING = {
    f"grouped:0:{LIMIT}": "SELECT count(*) FROM pgq_jobs WHERE state = 'running'",
    f"pgqueuer:{LIMIT}": "SELECT count(*) FROM pgqueuer WHERE status = 'picked'",
}
CONTENDERS = {"pgq": f"grouped:0:{LIMIT}", "pgqueuer": f"pgqueuer:{LIMIT}"}


class Watcher:
    """A thread that counts the running jobs all the time, each time in a snapshot of its own."""

    def __init__(self, database: str, query: str) -> None:
        self.samples: list[int] = []
        self._database = database
        self._query = query
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        with connect(self._database) as conn:
            # Every few milliseconds, so that the watcher takes little from what it watches.
            while not self._stopped.wait(0.003):
                self.samples.append(value(conn, self._query))


def run(harness: Harness) -> None:
    jobs = harness.pick(20_000, 5_000)
    samples: dict[str, list[int]] = {name: [] for name in CONTENDERS}
    rates = {name: partial(rate, CONTENDERS[name], jobs, samples[name]) for name in CONTENDERS}
    harness.compare(NAME, WHAT, "jobs/s", rates)
    for name, counts in samples.items():
        harness.record(NAME, EXCEEDED, name, "%", [100 * sum(count > LIMIT for count in counts) / len(counts)])
        harness.record(NAME, HIGHEST, name, "jobs", [max(counts)])


def rate(name: str, jobs: int, samples: list[int]) -> Sample:
    """Return jobs per second and their cost; add the numbers of running jobs that were seen to ``samples``."""
    contender = by_name(name)
    with fresh(contender) as database, Processes(contender, Task(database, BATCH), 2) as children:
        fill(contender, database, jobs)
        children.wait_ready()
        with Watcher(database, RUNNING[name]) as watcher:
            sample = children.drain(jobs)
    samples.extend(watcher.samples)
    return sample
