"""Clients that connect, claim, complete and disconnect, while another session holds a snapshot."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from contenders import by_name
from databases import Connection, connect, fresh, held_snapshot, value
from harness import BenchError, Harness, percentile
from job import KIND

import pgq

NAME = "one_shot"
ALONE = "full scan alone"
CLAIM = "claim, p99"
RATIO = "claim, p99, over a full scan alone"
AT_ONCE = "full scans at once"
DUE = "scans due until a late commit is found"
LATE = "late commit found after"
LATE_KIND = "late"
PROCESSES = 4
READ = "SELECT pg_stat_get_xact_tuples_returned('pgq_waiting_claim'::regclass)"
LOCKED = (
    "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' "
    "AND classid = 'pgq_head'::regclass AND mode = 'ExclusiveLock' AND granted)"
)
# The rows of one enqueue and one delete.
CHUNK = 20_000


@dataclass(frozen=True)
class Claim:
    """
    One claim of one client: when it began and ended, the index entries it read, and the kinds of its jobs.

    ``locked`` is whether its transaction held the lock under which one session at a time scans.
    """

    begun: float
    ended: float
    read: int
    locked: bool
    kinds: tuple[str, ...]

    @property
    def took(self) -> float:
        return self.ended - self.begun


def run(harness: Harness) -> None:
    dead = harness.pick(1_000_000, 250_000)
    clients = harness.pick(60, 20)
    seconds = harness.pick(40.0, 8.0)
    with (
        fresh(by_name("pgq")) as database,
        held_snapshot(database),
        connect(database) as conn,
    ):
        late = connect(database, autocommit=False)
        with closing(late):
            leave_dead(conn, dead // 2)
            pgq.Queue(late).enqueue(LATE_KIND)
            leave_dead(conn, dead // 2)
            # The last of these shares the heads with which the clients begin.
            alone = [scan_alone(database) for _ in range(3)]
            live = harness.pick(60_000, 10_000)
            conn.execute("SELECT count(*) FROM pgq_enqueue_many(%s::jsonb)", [jobs(dead, live)])
            with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
                # The start of the processes is not measured.
                list(pool.map(start, range(PROCESSES)))
                until = time.time() + seconds
                parts = [pool.submit(claim_once_each, database, clients // PROCESSES, until) for _ in range(PROCESSES)]
                time.sleep(seconds / 4)
                late.commit()
                committed = time.time()
                claims = sorted(
                    (claim for part in parts for claim in part.result()),
                    key=lambda one: one.begun,
                )
    report(harness, claims, dead, sorted(alone)[1], committed)


def report(harness: Harness, claims: Sequence[Claim], dead: int, alone: float, committed: float) -> None:
    """Record what the claims took and read, and when one of them has found the late job."""
    found = [claim for claim in claims if LATE_KIND in claim.kinds]
    if not found:
        raise BenchError("no claim has found the job that was committed late")
    # The two halves of a scan that a late job has filled count as one.
    scans = [claim for claim in claims if claim.read > dead // 3]
    due = [scan for scan in scans if scan.begun > committed and scan.begun <= found[0].begun]
    p99 = percentile([claim.took for claim in claims], 99)
    harness.record(NAME, ALONE, "pgq", "ms", [alone * 1000])
    harness.record(
        NAME,
        "claims",
        "pgq",
        "/s",
        [len(claims) / (claims[-1].ended - claims[0].begun)],
    )
    harness.record(
        NAME,
        "claim, median",
        "pgq",
        "ms",
        [percentile([claim.took for claim in claims], 50) * 1000],
    )
    harness.record(NAME, CLAIM, "pgq", "ms", [p99 * 1000])
    harness.record(NAME, RATIO, "pgq", "x", [p99 / alone])
    harness.record(NAME, "full scans", "pgq", "", [float(len(scans))])
    harness.record(NAME, AT_ONCE, "pgq", "", [float(most_at_once(scans))])
    harness.record(NAME, DUE, "pgq", "", [float(len(due))])
    harness.record(NAME, LATE, "pgq", "s", [found[0].ended - committed])


def most_at_once(scans: Sequence[Claim]) -> int:
    """Return the greatest number of scans that may have run at once; two that held the lock did not."""
    return max(
        (
            1
            + sum(
                other is not one and other.begun <= one.begun < other.ended and not (one.locked and other.locked)
                for other in scans
            )
            for one in scans
        ),
        default=0,
    )


def jobs(first: int, count: int) -> str:
    """Return so many different jobs in JSON."""
    return "[" + ",".join(f'{{"kind": "{KIND}", "args": {n}}}' for n in range(first, first + count)) + "]"


def leave_dead(conn: Connection, count: int) -> None:
    """Leave so many index entries of jobs that are gone."""
    for first in range(0, count, CHUNK):
        conn.execute(
            "SELECT count(*) FROM pgq_enqueue_many(%s::jsonb)",
            [jobs(first, min(CHUNK, count - first))],
        )
        conn.execute("DELETE FROM pgq_waiting WHERE kind = %s", [KIND])


def scan_alone(database: str) -> float:
    """Return how long the first claim takes while nothing else runs, in seconds."""
    with connect(database) as conn:
        conn.execute("DELETE FROM pgq_head WHERE queue <> chr(31)")
        # The first claim of a session also compiles the functions.
        pgq.WorkerQueue(conn).claim(["other"])
        began = time.perf_counter()
        pgq.WorkerQueue(conn).claim()
        return time.perf_counter() - began


def start(_: int) -> None:
    """Take a process of the pool, long enough for the others to be started, too."""
    time.sleep(1)


def claim_once_each(database: str, threads: int, until: float) -> list[Claim]:
    """Run clients in threads until a time; each connects for one claim after another."""
    with ThreadPoolExecutor(threads) as pool:
        parts = [pool.submit(client, database, until) for _ in range(threads)]
        return [claim for part in parts for claim in part.result()]


def client(database: str, until: float) -> list[Claim]:
    """Connect, claim, complete and disconnect, until a time."""
    claims = []
    while time.time() < until:
        with connect(database) as conn:
            queue = pgq.WorkerQueue(conn)
            with conn.transaction():
                begun = time.time()
                found = queue.claim()
                ended = time.time()
                read = value(conn, READ)
                locked = read > CHUNK and value(conn, LOCKED)
            claims.append(Claim(begun, ended, read, locked, tuple(job.kind for job in found)))
            queue.complete_many(found)
    return claims
