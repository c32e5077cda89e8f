"""The cost of a claim: large tables, future jobs, dead rows, stale statistics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

from claims import FLOOR_ROWS, FloorSession, Session, enqueue, sample
from contenders import by_name
from databases import connect, fresh, held_snapshot
from harness import Harness
from rows import insert_dead

NAME = "scale"
BASE = "pgq, fresh small table"
SMALL = 10_000
STALE_JOBS = 100_000
NEW_SESSIONS = 20
BLOCK = 10
EMPTY = "empty queue"
FIRST, FIRST_MAX = "first claim of a new session, median", "first claim of a new session, slowest"
PICTURE = "dead_rows"


def run(harness: Harness) -> None:
    empty(harness)
    backlog(harness)
    future(harness)
    stale_statistics(harness)
    dead_rows(harness)
    dead_rows_of_floor(harness)


def backlog_jobs(harness: Harness) -> int:
    return harness.pick(1_000_000, 50_000)


def dead_levels(harness: Harness) -> list[int]:
    return [0, 10_000, 100_000, *harness.pick([1_000_000, 5_000_000], [])]


def comparisons(harness: Harness) -> dict[str, str]:
    """Return the names of this run's comparisons with a fresh small table."""
    jobs = f"{backlog_jobs(harness):,}"
    return {
        "backlog": f"{jobs} ready",
        "future": f"{jobs} future jobs at priority 0",
        "dead": f"{dead_levels(harness)[-1]:,} dead rows",
        "stale": "stale statistics",
    }


def empty(harness: Harness) -> None:
    with fresh(by_name("pgq")) as database, session(database, expected=0) as claimer:
        claimer.claim()
        harness.record(NAME, EMPTY, "pgq", "ms", [claimer.claim() for _ in range(200)])


def backlog(harness: Harness) -> None:
    with fresh(by_name("pgq")) as database:
        enqueue(database, backlog_jobs(harness))
        against_small(harness, comparisons(harness)["backlog"], database)


def future(harness: Harness) -> None:
    """Claim where many future jobs have a higher priority."""
    with fresh(by_name("pgq")) as database:
        enqueue(database, backlog_jobs(harness), options='{"priority": 0, "delay": "1 day"}')
        enqueue(database, 1000, backlog_jobs(harness), '{"priority": 9}')
        against_small(harness, comparisons(harness)["future"], database, calls=90)


def stale_statistics(harness: Harness) -> None:
    """Claim while the statistics say that the table is empty."""
    with fresh(by_name("pgq")) as database:
        with connect(database) as conn:
            insert_dead(conn, 0, STALE_JOBS)
            conn.execute("ANALYZE pgq_waiting, pgq_running")
        enqueue(database, STALE_JOBS)
        against_small(harness, comparisons(harness)["stale"], database)


def dead_rows(harness: Harness) -> None:
    """Claim in a table with more and more dead rows, which a held snapshot keeps from vacuum."""
    series = harness.results.series.setdefault(PICTURE, {}).setdefault("pgq", [])
    levels = dead_levels(harness)
    with fresh(by_name("pgq")) as database, held_snapshot(database):
        for number, (below, level) in enumerate(zip([0, *levels], levels, strict=False)):
            with connect(database) as conn:
                conn.execute("DELETE FROM pgq_waiting")
                insert_dead(conn, below, level - below)
            enqueue(database, SMALL, number * SMALL)
            with session(database) as claimer:
                claimer.claim()
                claims = sample(200, 10, claimer.claim)
            series.append((level, record(harness, f"{level:,} dead rows, alone", "pgq", claims)))
        against_small(harness, comparisons(harness)["dead"], database)
        new_sessions(harness, database)


def dead_rows_of_floor(harness: Harness) -> None:
    """Take rows from the floor's table with more and more dead rows."""
    series = harness.results.series.setdefault(PICTURE, {}).setdefault("floor", [])
    levels = dead_levels(harness)
    with fresh(by_name("floor")) as database, held_snapshot(database):
        for below, level in zip([0, *levels], levels, strict=False):
            with connect(database) as conn:
                conn.execute(FLOOR_ROWS, [level - below])
                conn.execute("DELETE FROM floor")
                conn.execute(FLOOR_ROWS, [SMALL])
            with contextlib.closing(FloorSession(database)) as claimer:
                claimer.claim()
                claims = sample(200, 10, claimer.claim)
            series.append((level, record(harness, f"{level:,} dead rows, alone", "floor", claims)))


def new_sessions(harness: Harness, database: str) -> None:
    """Record the first claims of new sessions, after another session has claimed in this database."""
    firsts = []
    for _ in range(NEW_SESSIONS):
        with session(database) as claimer:
            firsts.append(claimer.claim())
    record(harness, FIRST, "pgq", firsts)
    harness.record(NAME, FIRST_MAX, "pgq", "ms", [max(firsts)])


def against_small(harness: Harness, what: str, database: str, calls: int = 200) -> None:
    """Record claims in a database, in turns with claims in a fresh one with a small table."""
    with fresh(by_name("pgq")) as small:
        enqueue(small, SMALL)
        with session(database) as there, session(small) as here:
            # The first claim of a session also compiles the function; `new_sessions` measures it.
            there.claim()
            here.claim()
            values: tuple[list[float], list[float]] = ([], [])
            end = time.monotonic() + harness.pick(20, 3)
            while len(values[0]) < calls and (time.monotonic() < end or not values[0]):
                for claimer, taken in ((there, values[0]), (here, values[1])):
                    taken.extend(sample(min(BLOCK, calls - len(taken)), 2, claimer.claim))
    record(harness, what, "pgq", values[0])
    record(harness, what, BASE, values[1])
    harness.print_ratios(NAME, what)


def record(harness: Harness, what: str, contender: str, claims: list[float]) -> float:
    """Record the milliseconds of claims; return their median."""
    harness.record(NAME, what, contender, "ms", claims)
    return harness.results.measurements[-1].median


@contextmanager
def session(database: str, expected: int = 10) -> Iterator[Session]:
    """Open a session that claims; close it at the end."""
    with contextlib.closing(Session(database, expected=expected)) as claimer:
        yield claimer
