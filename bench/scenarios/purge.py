"""Jobs that have been kept for long enough: what their deletion costs claims, and its steps under a held snapshot."""

from __future__ import annotations

import contextlib
import time
from statistics import mean

from claims import Session, enqueue, sample
from contenders import by_name
from databases import Connection, connect, fresh, held_snapshot, value
from harness import BenchError, Harness, percentile, quantiles

NAME = "purge"
BASE = "pgq, none is old"
CLAIM, CLAIM_P99, CLAIM_MEAN = "claim, median", "claim, p99", "claim, mean"
STEP, STEP_LAST, FEWEST = "step", "fastest step, last tenth over first", "jobs of a step, fewest"
AFTER = "step after all others, slowest of 100"
HELD, ALONE = "snapshot held", "no snapshot held"
BLOCK = 10
# A step reads so many jobs, and deletes those of them that are old.
STEP_JOBS = 1_000
# Jobs of two outcomes, a millisecond apart, of which the last one ended so long ago.
ENDED = """
    INSERT INTO pgq_ended (id, queue, kind, args, priority, ripe_at, attempt, max_retries, dedup, enqueued_at, outcome,
        ended_at)
    SELECT nextval('pgq_job_id'), 'default', 'job', to_jsonb(n), 5, now(), 1, 0, true, now(),
        CASE n %% 2 WHEN 0 THEN 'done' ELSE 'dead' END, now() - %s::interval - (%s - n) * interval '1 ms'
    FROM generate_series(1, %s::bigint) AS n
"""
OLD, YOUNG = "60 days", "1 hour"
DELETED = "SELECT pg_stat_get_xact_tuples_deleted('pgq_ended'::regclass)"


def run(harness: Harness) -> None:
    ended = harness.pick(5_000_000, 1_000_000)
    claims(harness, ended)
    for held in (False, True):
        steps(harness, ended, held)


def claims(harness: Harness, ended: int) -> None:
    """
    Claim and complete while claims delete old jobs, a step a second, in turns with claims where no job is old.

    The turns take half of the time each, so that of these claims twice as many make a step as in a busy session.
    """
    calls, seconds = harness.pick((10_000, 120), (4_000, 30))
    with fresh(by_name("pgq")) as old, fresh(by_name("pgq")) as young:
        for database, age in ((old, OLD), (young, YOUNG)):
            fill(database, ended, age)
            enqueue(database, 10 * (calls + BLOCK))
        with contextlib.closing(Session(old)) as there, contextlib.closing(Session(young)) as here:
            there.claim()
            here.claim()
            taken: dict[str, list[float]] = {"pgq": [], BASE: []}
            end = time.monotonic() + seconds
            while len(taken[BASE]) < calls and time.monotonic() < end:
                for claimer, values in ((there, taken["pgq"]), (here, taken[BASE])):
                    values.extend(sample(min(BLOCK, calls - len(values)), 2, claimer.claim))
        with connect(old) as conn:
            deleted = ended - value(conn, "SELECT count(*) FROM pgq_ended")
        if not deleted:
            raise BenchError("no claim has deleted an old job")
    for name, values in taken.items():
        harness.record(NAME, CLAIM, name, "ms", quantiles(values))
        harness.record(NAME, CLAIM_P99, name, "ms", [percentile(values, 99)])
        harness.record(NAME, CLAIM_MEAN, name, "ms", [mean(values)])
    harness.record(NAME, "jobs deleted meanwhile", "pgq", "jobs", [deleted])
    harness.record(NAME, "claim, slowest", "pgq", "ms", [max(taken["pgq"])])
    for what in (CLAIM, CLAIM_P99, CLAIM_MEAN):
        harness.print_ratios(NAME, what)


def steps(harness: Harness, ended: int, held: bool) -> None:
    """
    Delete all old jobs, step by step, without the second between two steps.

    The fastest steps are compared: a walk over dead entries slows each step, and other load of the machine only some.
    """
    contender = HELD if held else ALONE
    with fresh(by_name("pgq")) as database:
        fill(database, ended, OLD)
        with held_snapshot(database) if held else contextlib.nullcontext(), connect(database) as conn:
            conn.execute("SET synchronous_commit = off")
            took, jobs = zip(*(step(conn, number) for number in range(ended // STEP_JOBS)), strict=True)
            if sum(jobs) != ended:
                raise BenchError(f"{len(jobs)} steps have deleted {sum(jobs)} of {ended} jobs")
            # A minute apart.
            after = [step(conn, len(jobs) + 30 * number)[0] for number in range(1, 101)]
    tenth = len(took) // 10
    harness.record(NAME, STEP, contender, "ms", quantiles(took))
    harness.record(NAME, STEP_LAST, contender, "x", [min(took[-tenth:]) / min(took[:tenth])])
    harness.record(NAME, FEWEST, contender, "jobs", [min(jobs)])
    harness.record(NAME, AFTER, contender, "ms", [max(after)])


def step(conn: Connection, number: int) -> tuple[float, int]:
    """Make the step of the second with this number; return its milliseconds and how many jobs it has deleted."""
    with conn.transaction():
        # What earlier transactions have deleted is counted until the session reports it.
        before = value(conn, DELETED)
        started = time.perf_counter()
        conn.execute("SELECT _pgq_delete_old(pgq_now() + %s * interval '1 second')", [2 * number], prepare=True)
        return 1000 * (time.perf_counter() - started), value(conn, DELETED) - before


def fill(database: str, ended: int, age: str) -> None:
    """Insert jobs that have ended."""
    with connect(database) as conn:
        conn.execute(ENDED, [age, ended, ended])
        conn.execute("VACUUM ANALYZE pgq_ended")
        conn.execute("CHECKPOINT")
