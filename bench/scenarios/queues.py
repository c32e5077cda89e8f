"""Claim from a thousand queues: while all are empty, and while each has jobs."""

from __future__ import annotations

import contextlib

from claims import Session, sample
from contenders import by_name
from databases import connect, fresh
from harness import Harness

NAME = "queues"
QUEUES = 1_000
MAX_JOBS = 100
CALLS = 100
EMPTY = f"claim from {QUEUES:,} empty queues"
FULL = f"claim of {MAX_JOBS} jobs from {QUEUES:,} queues with jobs"
ENQUEUE = """
    SELECT count(*) FROM pgq_enqueue_many((
        SELECT jsonb_agg(jsonb_build_object('kind', 'job', 'args', n, 'queue', 'q' || n % 1000))
        FROM generate_series(1, 20000) AS n
    ))
"""
# The names are part of the prepared statement, so that their encoding is not measured.
NAMES = ",".join(f"q{n}" for n in range(QUEUES))
CLAIM = f"SELECT * FROM pgq_claim(queues => '{{{NAMES}}}', max_jobs => {MAX_JOBS})"


def run(harness: Harness) -> None:
    with fresh(by_name("pgq")) as database:
        record(harness, EMPTY, database, 0)
        with connect(database) as conn:
            conn.execute(ENQUEUE)
        record(harness, FULL, database, MAX_JOBS)


def record(harness: Harness, what: str, database: str, expected: int) -> None:
    """Record the milliseconds of claims that each find so many jobs."""
    with contextlib.closing(Session(database, claim=CLAIM, expected=expected)) as session:
        # The first claim of a session also compiles the function.
        session.claim()
        harness.record(NAME, what, "pgq", "ms", sample(CALLS, 30, session.claim))
