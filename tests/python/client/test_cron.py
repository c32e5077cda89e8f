"""pgq_cron_next finds the times that cronsim finds, and where cronsim misses some, those that the clocks show."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from support.cron import Case, cases, cronsim_next, named
from support.database import Connection


def found(conn: Connection, some: list[Case]) -> list[datetime | None]:
    """Return what pgq_cron_next returns for each case."""
    rows = conn.execute(
        "SELECT pgq_cron_next(c.cron, c.after, c.timezone) "
        "FROM unnest(%s::text[], %s::timestamptz[], %s::text[]) WITH ORDINALITY AS c (cron, after, timezone, n) "
        "ORDER BY c.n",
        [[c.cron for c in some], [c.after for c in some], [c.timezone for c in some]],
    )
    return [row[0] for row in rows]


@pytest.mark.parametrize(
    ("seed", "count"), [(1, 3000), *(pytest.param(seed, 10000, marks=pytest.mark.slow) for seed in range(2, 12))]
)
def test_random_expressions_fire_when_cronsim_says(conn: Connection, seed: int, count: int) -> None:
    """
    Where minute or hour begins with *, cronsim misses times of a day on which clocks change about midnight or not by
    whole hours. There each minute is compared with what the clocks show.
    """
    conn.execute("SET TimeZone = 'America/Caracas'")
    some = list(cases(seed, count))
    for begin in range(0, count, 1000):
        for case, at in zip(some[begin : begin + 1000], found(conn, some[begin : begin + 1000]), strict=True):
            if case.is_clear or at is None:
                assert at == cronsim_next(case if case.is_clear else replace(case, timezone="UTC")), case
            else:
                assert next(named(case, case.after, at), None) == at, case
