"""Schedules that do not fire."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.words import span

LATE: Final = """
    SELECT e.name, e.queue, e.kind, e.next_at, clock.now - e.next_at AS late, e.last_at
    FROM pgq_schedules AS e
    CROSS JOIN (SELECT pgq_now() AS now) AS clock
    WHERE e.last_error_at IS NULL
      AND e.next_at < clock.now - %(fire)s::interval
    ORDER BY e.next_at
    LIMIT 20
"""
FAILING: Final = """
    SELECT e.name, e.queue, e.kind, e.next_at, e.last_error_at, clock.now - e.last_error_at AS tried,
           e.last_at
    FROM pgq_schedules AS e
    CROSS JOIN (SELECT pgq_now() AS now) AS clock
    WHERE NOT e.paused
      AND e.last_error_at IS NOT NULL
    ORDER BY e.last_error_at
    LIMIT 20
"""


@check(Needs.READER)
def late_schedule(reading: Reading) -> Iterator[Finding]:
    """Yield schedules whose time has come and gone."""
    for row in reading.rows(LATE, fire=reading.thresholds.fire):
        yield Finding(
            "late-schedule",
            "error",
            f'schedule "{row["name"]}" should have fired {span(row["late"])} ago',
            "Claims and idle workers fire schedules, of whatever queue, so none of them is there; or a transaction has "
            "the schedule locked. What becomes of late slots is its catch_up.",
            "Start a worker, for any queue; see the other findings for transactions that stay open.",
            row,
        )


@check(Needs.READER)
def failing_schedule(reading: Reading) -> Iterator[Finding]:
    """Yield schedules that could not be fired."""
    for row in reading.rows(FAILING):
        yield Finding(
            "failing-schedule",
            "error",
            f'schedule "{row["name"]}" fails; it was last tried {span(row["tried"])} ago',
            "Its job could not be enqueued. It is tried again each minute, and other schedules go on.",
            f"pgq schedules shows the error, to an admin. Mend it with pgq schedule set {quote(row['name'])} …",
            row,
        )


CHECKS: Final[tuple[Check, ...]] = (late_schedule, failing_schedule)
