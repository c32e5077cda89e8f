"""The cost of an idle worker: queries and CPU time."""

from __future__ import annotations

import os
import time

from child import Task
from contenders import by_name
from databases import connect, fresh, value
from harness import Harness
from processes import Processes
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
        started = children.start()
        children.wait_until(started + WARM_UP)
        backends: list[int] = value(conn, BACKENDS, [database])
        processes = [children.workers[0].process.pid, *backends]
        queries, control = proxy.counts
        cpu = sum(map(cpu_seconds, processes))
        since = time.monotonic()
        children.wait_until(since + seconds)
        took = time.monotonic() - since
        used = sum(map(cpu_seconds, processes)) - cpu
        queries_after, control_after = proxy.counts
        children.stop(children.workers)
    harness.record(NAME, QUERIES, "pgq", "/s", [(queries_after - queries) / took])
    harness.record(NAME, CONTROL, "pgq", "/s", [(control_after - control) / took])
    harness.record(NAME, CPU, "pgq", "% of a core", [100 * used / took])


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process, in seconds."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        # The program's name, in parentheses, may contain blanks.
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
