"""How long hypothesis runs: one round from a fixed seed, or rounds until FUZZ_SECONDS are over."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.configuration import set_hypothesis_home_dir

from support.database import Connection, one
from support.paths import ROOT

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 0)
SEED = int(os.environ.get("FUZZ_SEED") or (random.randrange(10**6) if SECONDS else 0))

# Its files, such as unicode tables, belong in the build directory.
set_hypothesis_home_dir(ROOT / "build/hypothesis")


def bounds(examples: int, steps: int = 50) -> settings:
    """Return the settings of one round."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


def empty(conn: Connection, schema: str, *kept: str) -> None:
    """Delete all rows of all tables of pgq in a schema, but for those that are named."""
    delete = one(
        conn,
        "SELECT string_agg('DELETE FROM ' || c.oid::regclass::text, '; ') FROM pg_class AS c "
        "WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r' AND c.relname ~ '^pgq_' AND c.relname <> ALL (%s)",
        schema,
        list(kept),
    )
    conn.execute(delete.encode())


def clean(*connections: Connection) -> None:
    """Delete all jobs and workers, let the turns of queues begin anew, and reset these sessions."""
    empty(connections[0], one(connections[0], "SELECT current_schema()"))
    connections[0].execute(
        "SELECT setval(format('pgq_turn_%s', n)::regclass, 0, false) FROM generate_series(0, 7) AS n"
    )
    for conn in connections:
        conn.execute("SELECT pg_advisory_unlock_all()")
        conn.execute("RESET ALL")


def hunt(a_round: Callable[[Callable[[Any], Any]], None]) -> None:
    """Call ``a_round`` at least once, each time with hypothesis' decorator for its seed."""
    until = time.monotonic() + SECONDS
    n = SEED
    while True:
        try:
            a_round(seed(n))
        except BaseException as error:
            error.add_note(f"make fuzz SECONDS=1 SEED={n} reproduces this")
            raise
        n += 1
        if time.monotonic() >= until:
            break
    if SECONDS:
        print(f"found nothing in {n - SEED} rounds, seeds {SEED} to {n - 1}")
