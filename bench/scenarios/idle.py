"""The cost of an idle worker: queries and CPU time."""

from __future__ import annotations

import time

from child import Task
from contenders import by_name
from databases import connect, fresh, value
from harness import Harness
from processes import Processes
from usage import processes, programs, tree
from wire import Proxy

NAME = "idle"
QUERIES = "queries of an idle worker"
CONTROL = "BEGIN, COMMIT, ROLLBACK of an idle worker"
CPU = "an idle worker and its backend"
WARM_UP = 2.0
BACKENDS = "SELECT array_agg(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"


def run(harness: Harness) -> None:
    contender = by_name("pgq")
    seconds = harness.pick(20.0, 5.0)
    with (
        fresh(contender) as database,
        Proxy() as proxy,
        Processes(contender, Task(database, host=proxy.host)) as children,
        connect() as conn,
    ):
        children.wait_ready()
        children.start()
        while not value(conn, BACKENDS, [database]):
            children.check()
            time.sleep(0.01)
        children.wait_until(time.monotonic() + WARM_UP)
        backends: list[int] = value(conn, BACKENDS, [database])
        workers = [children.workers[0].process.pid]
        queries, control = proxy.counts
        cpu = cpu_seconds(workers, backends)
        since = time.monotonic()
        children.wait_until(since + seconds)
        took = time.monotonic() - since
        used = cpu_seconds(workers, backends) - cpu
        queries_after, control_after = proxy.counts
        children.stop(children.workers)
    harness.record(NAME, QUERIES, "pgq", "/s", [(queries_after - queries) / took])
    harness.record(NAME, CONTROL, "pgq", "/s", [(control_after - control) / took])
    harness.record(NAME, CPU, "pgq", "% of a core", [100 * used / took])


def cpu_seconds(workers: list[int], backends: list[int]) -> float:
    """Return the CPU time of worker processes and of their backends, in seconds."""
    found = processes()
    programs_ = [program for worker in workers for program in programs(found, worker)]
    return sum(tree(found, pid) for pid in programs_ + backends)
