"""What a claim costs on tables that are large, full of future jobs, full of dead rows, or lied about."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager

from claims import BORN_DEAD, FLOOR_ROWS, FloorSession, Session, enqueue, sample
from databases import connect, fresh, held_snapshot
from harness import Bench
from queues import by_name

NAME = "scale"
BASE = "pgq, fresh small table"
SMALL = 10_000
LIED_ABOUT = 100_000
NEW_SESSIONS = 20
BLOCK = 10
EMPTY = "empty queue"
FIRST, FIRST_MAX = "first claim of a new session, median", "first claim of a new session, slowest"
PICTURE = "dead_rows"


def run(bench: Bench) -> None:
    empty(bench)
    backlog(bench)
    future(bench)
    lying_statistics(bench)
    dead_rows(bench)
    dead_rows_of_floor(bench)


def backlog_jobs(bench: Bench) -> int:
    return bench.pick(1_000_000, 50_000)


def dead_levels(bench: Bench) -> list[int]:
    return [0, 10_000, 100_000, *bench.pick([1_000_000, 5_000_000], [])]


def names(bench: Bench) -> dict[str, str]:
    """What the comparisons with a fresh small table are called in this run."""
    jobs = f"{backlog_jobs(bench):,}"
    return {
        "backlog": f"{jobs} ready",
        "future": f"{jobs} future jobs at priority 0",
        "dead": f"{dead_levels(bench)[-1]:,} dead rows",
        "lying": "lying statistics",
    }


def empty(bench: Bench) -> None:
    with fresh(by_name("pgq")) as database, session(database, expected=0) as one:
        one.claim()
        bench.record(NAME, EMPTY, "pgq", "ms", [one.claim() for _ in range(200)])


def backlog(bench: Bench) -> None:
    with fresh(by_name("pgq")) as database:
        enqueue(database, backlog_jobs(bench))
        against_small(bench, names(bench)["backlog"], database)


def future(bench: Bench) -> None:
    """The jobs of the future would come first, were they ripe."""
    with fresh(by_name("pgq")) as database:
        enqueue(database, backlog_jobs(bench), options='{"priority": 0, "delay": "1 day"}')
        enqueue(database, 1000, backlog_jobs(bench), '{"priority": 9}')
        against_small(bench, names(bench)["future"], database, calls=90)


def lying_statistics(bench: Bench) -> None:
    """The planner believes in an empty table."""
    with fresh(by_name("pgq")) as database:
        with connect(database) as conn:
            conn.execute(BORN_DEAD, [0, LIED_ABOUT])
            conn.execute("DELETE FROM pgq_waiting")
            conn.execute("ANALYZE pgq_waiting, pgq_running")
        enqueue(database, LIED_ABOUT)
        against_small(bench, names(bench)["lying"], database)


def dead_rows(bench: Bench) -> None:
    series = bench.results.series.setdefault(PICTURE, {}).setdefault("pgq", [])
    levels = dead_levels(bench)
    with fresh(by_name("pgq")) as database, held_snapshot(database):
        for number, (below, level) in enumerate(zip([0, *levels], levels, strict=False)):
            with connect(database) as conn:
                conn.execute("DELETE FROM pgq_waiting")
                conn.execute(BORN_DEAD, [below, level - below])
                conn.execute("DELETE FROM pgq_waiting")
            enqueue(database, SMALL, number * SMALL)
            with session(database) as one:
                one.claim()
                claims = sample(200, 10, one.claim)
            series.append((level, record(bench, f"{level:,} dead rows, alone", "pgq", claims)))
        against_small(bench, names(bench)["dead"], database)
        new_sessions(bench, database)


def dead_rows_of_floor(bench: Bench) -> None:
    series = bench.results.series.setdefault(PICTURE, {}).setdefault("floor", [])
    levels = dead_levels(bench)
    with fresh(by_name("floor")) as database, held_snapshot(database):
        for below, level in zip([0, *levels], levels, strict=False):
            with connect(database) as conn:
                conn.execute(FLOOR_ROWS, [level - below])
                conn.execute("DELETE FROM floor")
                conn.execute(FLOOR_ROWS, [SMALL])
            with contextlib.closing(FloorSession(database)) as one:
                one.claim()
                claims = sample(200, 10, one.claim)
            series.append((level, record(bench, f"{level:,} dead rows, alone", "floor", claims)))


def new_sessions(bench: Bench, database: str) -> None:
    """Each connects, and its first claim is timed; another session has claimed here before."""
    firsts = []
    for _ in range(NEW_SESSIONS):
        with session(database) as one:
            firsts.append(one.claim())
    record(bench, FIRST, "pgq", firsts)
    bench.record(NAME, FIRST_MAX, "pgq", "ms", [max(firsts)])


def against_small(bench: Bench, what: str, database: str, calls: int = 200) -> None:
    """Claims in a table, in turns with claims in a fresh small one."""
    with fresh(by_name("pgq")) as small:
        enqueue(small, SMALL)
        with session(database) as there, session(small) as here:
            # The first claim of a session compiles the function; it is measured apart.
            there.claim()
            here.claim()
            values: tuple[list[float], list[float]] = ([], [])
            end = time.monotonic() + bench.pick(20, 3)
            while len(values[0]) < calls and (time.monotonic() < end or not values[0]):
                for one, taken in ((there, values[0]), (here, values[1])):
                    taken.extend(sample(min(BLOCK, calls - len(taken)), 2, one.claim))
    record(bench, what, "pgq", values[0])
    record(bench, what, BASE, values[1])
    bench.print_ratios(NAME, what)


def record(bench: Bench, what: str, contender: str, claims: list[float]) -> float:
    bench.record(NAME, what, contender, "ms", claims)
    return bench.results.measurements[-1].median


@contextmanager
def session(database: str, expected: int = 10) -> Iterator[Session]:
    with contextlib.closing(Session(database, expected=expected)) as one:
        yield one
