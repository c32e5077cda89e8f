"""The clocks of the server and of the client."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.words import span

# Each of these was written by the clock, and cannot lie ahead of it. Tokens follow it, too, but each crash of the
# server moves them on by a minute, and so does the first claim in a new database.
WRITTEN: Final = """
    SELECT w.what, w.at - clock.now AS ahead
    FROM (SELECT pgq_now() AS now) AS clock
    CROSS JOIN LATERAL (
        SELECT 'the token of the last claim' AS what,
               timestamptz 'epoch' + pg_sequence_last_value('pgq_token') * interval '1 microsecond'
               - interval '10 minutes' AS at
        UNION ALL
        SELECT 'the end of a job', max(e.ended_at) FROM pgq_ended AS e
        UNION ALL
        SELECT 'the claim of a job', max(r.claimed_at)
        FROM (SELECT o.claimed_at FROM pgq_running AS o LIMIT %(rows)s) AS r
        UNION ALL
        SELECT 'the start of a worker', max(s.registered_at) FROM pgq_worker_session AS s
        UNION ALL
        SELECT 'the change of a schedule', max(c.set_at) FROM pgq_schedule_entry AS c
    ) AS w
    WHERE w.at > clock.now + %(back)s::interval
    ORDER BY ahead DESC
    LIMIT 1
"""


@check()
def clock_skew(reading: Reading) -> Iterator[Finding]:
    """Yield that the clocks of this machine and of the server differ."""
    before = datetime.now(UTC)
    server = reading.value("SELECT clock_timestamp()")
    after = datetime.now(UTC)
    # Somewhere between the two the server has read its clock.
    skew = max(before - server, server - after, timedelta(0))
    if skew <= reading.thresholds.skew:
        return
    yield Finding(
        "clock-skew",
        "warning",
        f"the clock of this machine and that of the server are {span(skew)} apart",
        "Only the clock of the server counts for jobs. But a producer that computes ripe_at by its own clock means "
        "another time, and lines of logs do not match.",
        "Let both follow a time server (timedatectl, chronyc tracking). Enqueue with delay instead of ripe_at.",
        {"client": before.isoformat(), "server": server.isoformat(), "seconds": skew.total_seconds()},
    )


@check(Needs.OWNER)
def clock_went_back(reading: Reading) -> Iterator[Finding]:
    """Yield that something was written at a time that has not come yet."""
    thresholds = reading.thresholds
    for row in reading.rows(WRITTEN, back=thresholds.back, rows=thresholds.rows):
        yield Finding(
            "clock-went-back",
            "warning",
            f"the clock of the server was set back: {row['what']} is {span(row['ahead'])} ahead of it",
            "Jobs that were enqueued within this time, or delayed, wait until it has passed again, and leases last "
            "longer by it. No job is lost, no slot of a schedule is fired twice, and tokens go on growing.",
            "Let the server follow a time server that slews the clock (chronyd). Jobs that wait too long can be made "
            "ripe: pgq update ID --at TIME",
            row,
        )


CHECKS: Final[tuple[Check, ...]] = (clock_skew, clock_went_back)
