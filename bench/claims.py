"""A session that claims jobs, timed on the client, and the jobs that it claims."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from contenders.floor import STEADY_PLAN, TAKE
from databases import connect
from harness import BenchError

JOBS = 10
CLAIM = f"SELECT * FROM pgq_claim(max_jobs => {JOBS})"
ENQUEUE_CHUNK = 10_000
ENQUEUE = """
    SELECT count(*) FROM pgq_enqueue_many((
        SELECT jsonb_agg(jsonb_build_object('kind', 'job', 'args', n) || %s::jsonb)
        FROM generate_series(%s::bigint, %s::bigint) AS n
    ))
"""
FLOOR_ROWS = "INSERT INTO floor (payload) SELECT jsonb_build_object('n', n) FROM generate_series(1, %s) AS n"


class Session:
    """
    A session that claims ten jobs at a time.

    It commits without waiting for the disk, whose variation exceeds the differences to be measured.
    """

    def __init__(self, database: str, *, claim: str = CLAIM, expected: int = JOBS) -> None:
        self.conn = connect(database)
        self.conn.execute("SET synchronous_commit = off")
        self._claim = claim
        self._expected = expected

    def claim(self) -> float:
        """Claim, and complete the jobs; return the milliseconds that the claim and its commit took."""
        started = time.perf_counter()
        rows = self.conn.execute(self._claim, prepare=True).fetchall()
        took = time.perf_counter() - started
        if len(rows) != self._expected:
            raise BenchError(f"claimed {len(rows)} jobs, not {self._expected}")
        self.finish(rows)
        return 1000 * took

    def finish(self, rows: list[Any]) -> None:
        """Complete the claimed jobs."""
        if rows:
            ids, tokens = ([row[n] for row in rows] for n in (0, 1))
            self.conn.execute("SELECT pgq_complete_many(%s::bigint[], %s::bigint[])", [ids, tokens])

    def close(self) -> None:
        self.conn.close()


class FloorSession(Session):
    """A session that takes ten rows of the floor at a time; its claim also completes them."""

    def __init__(self, database: str) -> None:
        super().__init__(database, claim=TAKE.replace("%s", str(JOBS)))
        self.conn.execute(STEADY_PLAN)

    def finish(self, rows: list[Any]) -> None:
        """Do nothing: the claim has deleted the rows."""


def enqueue(database: str, jobs: int, first: int = 0, options: str = "{}") -> None:
    """Enqueue jobs with pgq_enqueue_many from arguments that the server generates."""
    with connect(database) as conn:
        for start in range(first, first + jobs, ENQUEUE_CHUNK):
            conn.execute(ENQUEUE, [options, start, min(start + ENQUEUE_CHUNK, first + jobs) - 1])


def sample(calls: int, seconds: float, call: Callable[[], float]) -> list[float]:
    """Return the values of at most ``calls`` calls, begun within ``seconds``; at least one."""
    end = time.monotonic() + seconds
    values = [call()]
    while len(values) < calls and time.monotonic() < end:
        values.append(call())
    return values
