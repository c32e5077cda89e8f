"""What a worker costs that has nothing to do."""

from __future__ import annotations

import os
import time

from crew import Crew
from databases import connect, fresh, value
from duty import Task
from harness import Bench
from queues import by_name
from wire import Proxy

NAME = "idle"
QUERIES = "queries of an idle worker"
CONTROL = "BEGIN, COMMIT, ROLLBACK of an idle worker"
CPU = "an idle worker and its backend"
WARM_UP = 2.0
BACKENDS = "SELECT array_agg(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"


def run(bench: Bench) -> None:
    contender = by_name("pgq")
    seconds = bench.pick(20.0, 5.0)
    with (
        fresh(contender) as database,
        Proxy() as proxy,
        Crew(contender, Task(database, host=proxy.host)) as crew,
        connect() as conn,
    ):
        crew.ready()
        started = crew.go()
        crew.wait_until(started + WARM_UP)
        backends: list[int] = value(conn, BACKENDS, [database])
        processes = [crew.members[0].process.pid, *backends]
        queries, control = proxy.counts
        cpu = sum(map(cpu_seconds, processes))
        since = time.monotonic()
        crew.wait_until(since + seconds)
        took = time.monotonic() - since
        used = sum(map(cpu_seconds, processes)) - cpu
        queries_after, control_after = proxy.counts
        crew.stop(crew.members)
    bench.record(NAME, QUERIES, "pgq", "/s", [(queries_after - queries) / took])
    bench.record(NAME, CONTROL, "pgq", "/s", [(control_after - control) / took])
    bench.record(NAME, CPU, "pgq", "% of a core", [100 * used / took])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        # The name of the program, in parentheses, may hold blanks.
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
