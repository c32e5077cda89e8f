"""When the jobs of small tenants begin, which were enqueued after the many jobs of a large one."""

from __future__ import annotations

from child import Task
from contenders import by_name
from databases import fresh
from harness import Harness
from processes import Processes

from scenarios.groups import NONE, enqueue

NAME = "fairness"
TENANTS = 100
JOBS_OF_EACH = 10
LARGE_JOBS = "jobs of the large tenant begun before all of the small ones"
SECONDS = "time until all jobs of the small tenants have begun"
BASE = "pgq, no groups"


def run(harness: Harness) -> None:
    large = harness.pick(100_000, 5_000)
    # Each tenant is a group; the large one has the lower numbers.
    group = f"CASE WHEN n < {large} THEN 'large' ELSE 'small ' || mod(n, {TENANTS}) END"
    rounds = harness.pick(3, 1)
    begun: dict[str, list[tuple[int, float]]] = {
        name: [measure(large, expression) for _ in range(rounds)] for name, expression in (("pgq", group), (BASE, NONE))
    }
    for name, measured in begun.items():
        harness.record(NAME, LARGE_JOBS, name, "jobs", [jobs for jobs, _ in measured])
        harness.record(NAME, SECONDS, name, "s", [seconds for _, seconds in measured])


def measure(large: int, group: str) -> tuple[int, float]:
    """Return how many jobs of the large tenant begin before the last one of the others, and after how many seconds."""
    jobs = large + TENANTS * JOBS_OF_EACH
    contender = by_name("pgq")
    with fresh(contender) as database, Processes(contender, Task(database), latencies=jobs) as children:
        enqueue(database, large, group)
        enqueue(database, jobs - large, group, first=large)
        children.wait_ready()
        children.start()
        children.wait_for(jobs)
        children.stop(children.workers)
        children.verify(jobs)
        started = list(children.counters.started)
    last = max(started[large:])
    return sum(at < last for at in started[:large]), (last - min(started)) / 1e9
