"""What the server and the processes of a contender have used: CPU time, and bytes of WAL."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from databases import Connection, value

TICK = 1 / os.sysconf("SC_CLK_TCK")
WAL = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"


@dataclass(frozen=True)
class Usage:
    """Seconds of CPU time of the whole server and of client processes, and bytes of WAL, since their beginnings."""

    server: float
    client: float
    wal: int

    def since(self, earlier: Usage, jobs: int) -> dict[str, float]:
        """Return what each job has cost since an earlier time, by the names in harness.COSTS."""
        return {
            "server CPU": 1e6 * (self.server - earlier.server) / jobs,
            "client CPU": 1e6 * (self.client - earlier.client) / jobs,
            "WAL": (self.wal - earlier.wal) / jobs,
        }


@dataclass(frozen=True)
class Process:
    """The parent of a process, its CPU time, and that of its children that have ended; in seconds."""

    parent: int
    own: float
    ended: float


def usage(conn: Connection, clients: Iterable[int]) -> Usage:
    """Return what the server of a connection and client processes have used."""
    found = processes()
    return Usage(
        server=tree(found, found[conn.info.backend_pid].parent),
        client=sum(tree(found, pid) for process in clients for pid in programs(found, process)),
        wal=value(conn, WAL),
    )


def backend_seconds(conn: Connection) -> float:
    """Return the CPU time of the process that serves a connection, in seconds; it is counted in nanoseconds."""
    text = Path(f"/proc/{conn.info.backend_pid}/schedstat").read_text(encoding="ascii")
    return int(text.split()[0]) / 1e9


def processes() -> dict[int, Process]:
    """Return all processes of this machine by their number."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="utf-8", errors="replace")
        except OSError:
            # It has ended.
            continue
        # The program's name, in parentheses, may contain blanks.
        fields = text.rpartition(")")[2].split()
        user, system, ended_user, ended_system = (int(field) * TICK for field in fields[11:15])
        found[int(stat.parent.name)] = Process(int(fields[1]), user + system, ended_user + ended_system)
    return found


def programs(found: dict[int, Process], pid: int) -> list[int]:
    """Return the programs that a process only watches, or else the process itself."""
    return [child for child, process in found.items() if process.parent == pid] or [pid]


def tree(found: dict[int, Process], root: int) -> float:
    """Return the CPU time of a process and of all its descendants, in seconds."""
    if root not in found:
        return 0.0
    children = (pid for pid, process in found.items() if process.parent == root)
    return found[root].own + found[root].ended + sum(tree(found, pid) for pid in children)
