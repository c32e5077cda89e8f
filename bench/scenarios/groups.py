"""Claims of jobs in groups: from a million jobs, with limits, beside full groups and beside jobs of the future."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from claims import Session, sample
from contenders import by_name
from databases import Connection, connect, fresh
from harness import Harness, quantiles

NAME = "groups"
MAX_JOBS = 10
CALLS = 200
SECONDS = 10
CHUNK = 20_000
# The settings of a queue that are measured, one after the other, in one database.
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "no limit": {},
    "max_per_group 5": {"max_per_group": 5},
    "max_running 100": {"max_per_group": None, "max_running": 100},
    "ordered": {"max_running": None, "ordered": True},
}
NONE = "NULL"
BASE = "pgq, no groups"
FUTURE = "1,000 ripe jobs beside the future ones of a group each"
FULL_GROUPS = 1_000
FULL = f"claims of one job, {FULL_GROUPS:,} full groups beside a free one"
# One job in a group of its own each is what a queue of jobs of the future has in the worst case.
ENQUEUE = """
    SELECT count(*) FROM pgq_enqueue_many((
        SELECT jsonb_agg(
            jsonb_build_object('kind', 'job', 'args', jsonb_build_object('n', n), 'group_key', {group}) || %s::jsonb)
        FROM generate_series(%s::bigint, %s::bigint) AS n
    ))
"""


def run(harness: Harness) -> None:
    waiting = harness.pick(1_000_000, 20_000)
    for groups in (0, 10, 1_000, 100_000):
        backlog(harness, waiting, groups)
    future(harness, waiting)
    full(harness)


def backlog(harness: Harness, waiting: int, groups: int) -> None:
    """Claim from so many waiting jobs, with each of the settings."""
    with fresh(by_name("pgq")) as database:
        enqueue(database, waiting, f"'g' || mod(n, {groups})" if groups else NONE)
        for name, settings in SETTINGS.items() if groups else [("no limit", SETTINGS["no limit"])]:
            configure(database, settings)
            with session(database) as claimer:
                claims = sample(CALLS, SECONDS, claimer.claim)
            harness.record(NAME, f"claim, {waiting:,} jobs in {groups:,} groups, {name}", "pgq", "ms", claims)


def future(harness: Harness, waiting: int) -> None:
    """Claim ripe jobs beside jobs of the future, with and without groups."""
    for contender, group in (("pgq", "'g' || n"), (BASE, NONE)):
        with fresh(by_name("pgq")) as database:
            enqueue(database, waiting, group, {"delay": "1 day"})
            enqueue(database, 1_000, group, first=waiting)
            with session(database) as claimer:
                claims = sample(1_000 // MAX_JOBS - 1, SECONDS, claimer.claim)
            harness.record(NAME, FUTURE, contender, "ms", claims)
    harness.print_ratios(NAME, FUTURE)


def full(harness: Harness) -> None:
    """Claim one job at a time where all groups but one have as many running jobs as they may."""
    jobs = harness.pick(4_000, 500)
    with fresh(by_name("pgq")) as database:
        configure(database, {"max_per_group": 1})
        enqueue(database, 20 * FULL_GROUPS, f"'full' || mod(n, {FULL_GROUPS})")
        with connect(database) as conn:
            fill_groups(conn)
        enqueue(database, jobs, "'free'", first=20 * FULL_GROUPS)
        with session(database, 1) as claimer:
            claims = sample(jobs - 1, SECONDS, claimer.claim)
    harness.record(NAME, FULL, "pgq", "claims/s", quantiles([1000 / took for took in claims]))


def fill_groups(conn: Connection) -> None:
    """Claim one job of each group, and leave it running."""
    running = 0
    while running < FULL_GROUPS:
        running += len(conn.execute("SELECT id FROM pgq_claim(max_jobs => 1000, lease => '1 hour')").fetchall())


def enqueue(database: str, jobs: int, group: str, options: Mapping[str, object] | None = None, first: int = 0) -> None:
    """Enqueue jobs numbered from ``first``; ``group`` is an SQL expression of their number ``n``."""
    statement = ENQUEUE.format(group=group)
    with connect(database) as conn:
        for start in range(first, first + jobs, CHUNK):
            end = min(start + CHUNK, first + jobs) - 1
            conn.execute(statement, [json.dumps(options or {}), start, end])
        conn.execute("CHECKPOINT")


def configure(database: str, settings: Mapping[str, object]) -> None:
    """Change settings of the queue."""
    with connect(database) as conn:
        conn.execute("SELECT pgq_configure('default', %s::jsonb)", [json.dumps(settings)])


@contextmanager
def session(database: str, max_jobs: int = MAX_JOBS) -> Iterator[Session]:
    """Open a session that claims; its first claim, which also compiles the functions, is not measured."""
    claim = f"SELECT id, token FROM pgq_claim(max_jobs => {max_jobs})"
    with contextlib.closing(Session(database, claim=claim, expected=max_jobs)) as claimer:
        claimer.claim()
        yield claimer
