"""
What a job costs the server where nothing but a plain queue is used, beside pgq without groups, schedules and workflows.

The statements are those of a client that has prepared them, each a transaction of its own, but for hold and complete.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

from contenders import by_name
from databases import Connection, connect, fresh, value
from harness import OURS, BenchError, Harness, Unavailable
from job import KIND, args, array
from packages import plain_sql
from usage import WAL, backend_seconds

from scenarios.wal import LEFT_OUT, without

NAME = "plain_path"
BASE = "pgq without groups"
BATCH = 100
ONE_BY_ONE, HELD = "one by one", "held one by one"
MANY, PACKED = f"{BATCH} by pgq_claim", f"{BATCH} by pgq_claim_batch"
COMPLETE = "SELECT pgq_complete(%s::bigint, %s::bigint)"

Step = Callable[[Connection, int], None]


def enqueue(conn: Connection, jobs: int) -> None:
    for n in range(jobs):
        conn.execute("SELECT pgq_enqueue(%s, %s::jsonb)", [KIND, json.dumps(args(n))])


def enqueue_many(conn: Connection, jobs: int) -> None:
    conn.execute("SELECT count(*) FROM pgq_enqueue_many(%s::jsonb)", [array(0, jobs)])


def one_by_one(conn: Connection, jobs: int) -> None:
    for _ in range(jobs):
        conn.execute(COMPLETE, conn.execute("SELECT id, token FROM pgq_claim()").fetchone())


def held(conn: Connection, jobs: int) -> None:
    for _ in range(jobs):
        job = conn.execute("SELECT id, token FROM pgq_claim()").fetchone()
        with conn.transaction():
            conn.execute("SELECT pgq_hold(%s::bigint, %s::bigint)", job)
            conn.execute(COMPLETE, job)


def many(conn: Connection, jobs: int) -> None:
    for _ in range(jobs // BATCH):
        taken = conn.execute("SELECT array_agg(id), array_agg(token) FROM pgq_claim(max_jobs => %s)", [BATCH])
        conn.execute("SELECT count(*) FROM pgq_complete_many(%s::bigint[], %s::bigint[])", taken.fetchone())


def packed(conn: Connection, jobs: int) -> None:
    done: list[list[int]] = [[], []]
    claim = "pgq_claim_batch(max_jobs => %s, done_ids => %s::bigint[], done_tokens => %s::bigint[])"
    for _ in range(jobs // BATCH + 1):
        for token, ids in conn.execute(f"SELECT token, ids FROM {claim}", [BATCH, *done]):
            done = [ids, [token] * len(ids)]


# The first step of each path is the enqueue.
PATHS: dict[str, tuple[Step, Step]] = {
    ONE_BY_ONE: (enqueue, one_by_one),
    HELD: (enqueue, held),
    MANY: (enqueue_many, many),
    PACKED: (enqueue_many, packed),
}


@dataclass(frozen=True)
class Spent:
    """Microseconds of server CPU and bytes of WAL that a job has cost."""

    cpu: float
    wal: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.cpu + other.cpu, self.wal + other.wal)


def run(harness: Harness) -> None:
    rounds, jobs = harness.pick((20, 1_000), (2, 200))
    try:
        base = plain_sql()
    except Unavailable as reason:
        harness.notice(f"{NAME} is left out: {reason}")
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(without(LEFT_OUT))
        ours = by_name("pgq")
        theirs = replace(ours, name="plain", install=functools.partial(install, base.read_bytes()))
        conns = {
            name: stack.enter_context(connect(stack.enter_context(fresh(contender))))
            for name, contender in ((OURS, ours), (BASE, theirs))
        }
        for conn in conns.values():
            conn.prepare_threshold = 0
            # The wait for the disk is no CPU time, and its variation is large.
            conn.execute("SET synchronous_commit = off")
        for path, steps in PATHS.items():
            compare(harness, path, steps, conns, rounds, jobs)


def install(sql: bytes, database: str) -> None:
    with connect(database) as conn:
        conn.execute(sql)


def compare(
    harness: Harness, path: str, steps: tuple[Step, Step], conns: dict[str, Connection], rounds: int, jobs: int
) -> None:
    """Take the steps in turns, in each round in the opposite order; record what they cost, and the last one alone."""
    spent: dict[str, list[tuple[Spent, Spent]]] = {name: [] for name in conns}
    for number in range(rounds + 1):
        for name in list(conns) if number % 2 else reversed(conns):
            first, then = (spend(conns[name], step, jobs) for step in steps)
            # The first round fills caches.
            if number:
                spent[name].append((first + then, then))
            check(conns[name], path)
    for what, pick in ((path, 0), (f"{path}, without enqueue", 1)):
        for name, taken in spent.items():
            wal = median(costs[pick].wal for costs in taken)
            harness.record(NAME, what, name, "us/job", [costs[pick].cpu for costs in taken], {"WAL": wal})
        harness.print_ratios(NAME, what)
    ratios = [one.cpu / other.cpu for (one, _), (other, _) in zip(spent[OURS], spent[BASE], strict=True)]
    harness.record(NAME, f"{path}, ratio", OURS, "x", ratios)


def spend(conn: Connection, step: Step, jobs: int) -> Spent:
    wal, cpu = value(conn, WAL), backend_seconds(conn)
    step(conn, jobs)
    return Spent(1e6 * (backend_seconds(conn) - cpu) / jobs, float(value(conn, WAL) - wal) / jobs)


def check(conn: Connection, path: str) -> None:
    """Check that all jobs are done; remove what they leave, so that each round begins as the one before."""
    if left := value(conn, "SELECT (SELECT count(*) FROM pgq_waiting) + (SELECT count(*) FROM pgq_running)"):
        raise BenchError(f"{path}: {left} jobs are left")
    conn.execute("VACUUM pgq_waiting, pgq_running, pgq_running_batch")
