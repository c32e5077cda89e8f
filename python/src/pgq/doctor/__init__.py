"""
The doctor: what is wrong with a queue, what it means for the jobs, and what mends it.

A check looks for one kind of finding. It stands in the module of its theme, and in the tuple ``CHECKS`` there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import psycopg

from pgq.connection import check_connection
from pgq.doctor import (
    blocked,
    clocks,
    grants,
    horizon,
    housekeeping,
    installed,
    jobs,
    limits,
    running,
    schedules,
    server,
    suspects,
    timeouts,
    transactions,
    vacuum,
    workers,
)
from pgq.doctor.finding import SEVERITIES, Examination, Finding, Unseen
from pgq.doctor.reading import QUERY_WITHIN, Check, Needs, OutOfTime, Reading
from pgq.doctor.thresholds import Thresholds
from pgq.errors import permission_hint

__all__ = ["CHECKS", "Check", "Examination", "Finding", "Thresholds", "Unseen", "examine"]

CHECKS: Final[tuple[Check, ...]] = (
    *installed.CHECKS,
    *jobs.CHECKS,
    *suspects.CHECKS,
    *running.CHECKS,
    *workers.CHECKS,
    *limits.CHECKS,
    *schedules.CHECKS,
    *blocked.CHECKS,
    *transactions.CHECKS,
    *horizon.CHECKS,
    *vacuum.CHECKS,
    *housekeeping.CHECKS,
    *server.CHECKS,
    *timeouts.CHECKS,
    *clocks.CHECKS,
    *grants.CHECKS,
)
# Findings of one kind.
MOST: Final = 20


def examine(
    conn: psycopg.Connection[Any],
    schema: str | None = None,
    *,
    thresholds: Thresholds | None = None,
    checks: Sequence[Check] = CHECKS,
) -> Examination:
    """
    Return what is wrong with the pgq in ``schema``, or in the one that the search path finds.

    Each query runs in a transaction of its own, which is read-only, takes three seconds at most and is rolled back; all
    of them take half a minute at most. In a transaction of the caller they are savepoints, and then the snapshot and
    the locks of what was read stay until its end. A check that the role may not make, that fails or takes too long is
    among what is unseen. Raises NotInstalled where there is no pgq, and psycopg.OperationalError when the connection is
    lost.
    """
    check_connection(conn)
    reading = Reading(conn, schema, thresholds or Thresholds())
    is_older = installed.is_older(reading)
    findings: list[Finding] = []
    unseen: list[Unseen] = []
    for one in checks:
        if is_older and one.needs & (Needs.READER | Needs.OWNER):
            unseen.append(Unseen(one.code, "the SQL in the database is older than this program"))
            continue
        lacks = one.needs & ~reading.has
        if lacks:
            unseen.append(_lacking(one, lacks, reading))
            continue
        try:
            found = list(one.look(reading))
        except Exception as error:
            if conn.closed:
                raise
            unseen.append(Unseen(one.code, _reason(error)))
            continue
        alike = [entry for entry in found if isinstance(entry, Finding)]
        findings += alike[:MOST]
        if len(alike) > MOST:
            unseen.append(Unseen(one.code, f"only the first {MOST} of {len(alike)} such findings are shown"))
        unseen += [entry for entry in found if isinstance(entry, Unseen)]
    if not is_older:
        unseen += _hidden(reading)
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Examination(tuple(findings), tuple(unseen))


def _reason(error: Exception) -> str:
    """Return why a check has failed, in one line."""
    if isinstance(error, OutOfTime):
        return "the checks before it took too long"
    if isinstance(error, psycopg.errors.QueryCanceled):
        return f"the query took longer than {QUERY_WITHIN:.0f} seconds"
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _lacking(one: Check, lacks: Needs, reading: Reading) -> Unseen:
    """Return that a role may not make a check, and what to grant."""
    role = reading.place["role"]
    if Needs.PRIMARY in lacks:
        return Unseen(one.code, "this server is a standby", "Examine the primary, too.")
    if Needs.OWNER in lacks:
        return Unseen(
            one.code,
            f'only the owner of pgq, role "{reading.place["owner_name"]}", may read the tables that tell',
            "Run pgq doctor as the owner.",
        )
    if Needs.READER in lacks:
        return Unseen(one.code, f'role "{role}" is no reader of pgq', permission_hint("reader", role))
    return Unseen(
        one.code,
        f'role "{role}" does not see the sessions of other roles',
        f"GRANT pg_monitor TO {reading.place['quoted_role']};",
    )


def _hidden(reading: Reading) -> Iterator[Unseen]:
    """Return that the role sees some queues only."""
    role = reading.place["role"]
    try:
        sees_all = Needs.READER not in reading.has or reading.value("SELECT pgq_overview_ids() IS NOT NULL")
    except (OutOfTime, psycopg.Error) as error:
        yield Unseen("no-worker", f"whether role {role!r} sees all queues is not known: {_reason(error)}")
    else:
        if not sees_all:
            yield Unseen("no-worker", f'role "{role}" sees some of the queues only', permission_hint("reader", role))
