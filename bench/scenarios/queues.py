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
# The names are part of the prepared statement, so that their encoding is not measured.
NAMES = ",".join(f"q{n}" for n in range(QUEUES))
CLAIMS = {
    "pgq_claim": f"SELECT id, token FROM pgq_claim(queues => '{{{NAMES}}}', max_jobs => {MAX_JOBS})",
    "pgq_claim_batch": (
        f"SELECT unnest(ids), token FROM pgq_claim_batch(queues => '{{{NAMES}}}', max_jobs => {MAX_JOBS})"
    ),
}
ENQUEUE = """
    SELECT count(*) FROM pgq_enqueue_many((
        SELECT jsonb_agg(jsonb_build_object('kind', 'job', 'args', n, 'queue', 'q' || n % 1000))
        FROM generate_series(1, 20000) AS n
    ))
"""


def run(harness: Harness) -> None:
    for name, claim in CLAIMS.items():
        with fresh(by_name("pgq")) as database:
            record(harness, empty(name), database, claim, 0)
            with connect(database) as conn:
                conn.execute(ENQUEUE)
            record(harness, full(name), database, claim, MAX_JOBS)


def empty(name: str) -> str:
    return f"{name}, {QUEUES:,} empty queues"


def full(name: str) -> str:
    return f"{name} of {MAX_JOBS} jobs, {QUEUES:,} queues with jobs"


def record(harness: Harness, what: str, database: str, claim: str, expected: int) -> None:
    """Record the milliseconds of claims that each find so many jobs."""
    with contextlib.closing(Session(database, claim=claim, expected=expected)) as session:
        # The first claim of a session also compiles the function.
        session.claim()
        harness.record(NAME, what, "pgq", "ms", sample(CALLS, 10, session.claim))
