"""Jobs that end their workers, or may have done so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from pgq.doctor.finding import Finding, Unseen
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.words import number

# The columns losses and newest_error have no index. A sub-select is evaluated once, before the table is read.
JOBS: Final = """
    SELECT id, queue, kind, 'running' AS state, worker, losses, newest_error FROM pgq_running
    UNION ALL
    SELECT id, queue, kind, 'waiting', NULL, losses, newest_error
    FROM pgq_waiting
    WHERE (SELECT pg_relation_size('pgq_waiting') <= %(bytes)s)
"""
SUSPECTS: Final = f"""
    SELECT j.id, j.queue, j.kind, j.state, j.worker, abs(j.losses)::integer AS losses
    FROM ({JOBS}) AS j
    WHERE j.losses IS NOT NULL
    LIMIT 20
"""
# The texts are those of the rescue.
LOOPING: Final = f"""
    SELECT j.id, j.queue, j.kind, j.state, e.worker, e.error, lost.times::integer AS times
    FROM (SELECT * FROM ({JOBS}) AS o WHERE o.newest_error > 1 LIMIT %(rows)s) AS j
    JOIN pgq_error AS e ON e.id = j.id AND e.number = j.newest_error
    CROSS JOIN LATERAL (
        SELECT count(*) AS times
        FROM pgq_error AS l
        WHERE l.id = j.id AND l.error IN ('the worker is gone', 'the lease ran out')
    ) AS lost
    WHERE e.error IN ('the worker is gone', 'the lease ran out')
      AND lost.times > 1
    LIMIT 20
"""
CAUSE: Final = (
    "See in the log of the worker, and in that of its machine, how it ended: out of memory, a crash in C, os._exit, "
    "or a process that was frozen. "
)


def searched(reading: Reading, query: str) -> tuple[list[dict[str, Any]], bool]:
    """Return the rows of a query on the jobs that run and wait, and whether the waiting ones were searched."""
    thresholds = reading.thresholds
    rows = reading.rows(query, bytes=thresholds.searched_bytes, rows=thresholds.rows)
    return rows, reading.value("SELECT pg_relation_size('pgq_waiting')") <= thresholds.searched_bytes


def not_searched(code: str) -> Unseen:
    """Return that a search left the waiting jobs out."""
    return Unseen(code, "too many jobs wait to search all of them; those that run were searched")


@check(Needs.OWNER)
def suspect_job(reading: Reading) -> Iterator[Finding | Unseen]:
    """Yield jobs that were lost together with others, and may have caused that."""
    rows, is_complete = searched(reading, SUSPECTS)
    for row in rows:
        yield Finding(
            "suspect-job",
            "warning",
            f'job {row["id"]} of kind "{row["kind"]}" is a suspect: it was lost together with others '
            f"{number(row['losses'], 'time')}",
            "Its worker was killed, died or froze while it held several jobs, and one of them may be the cause. So "
            "this job is claimed alone, until it ends or fails. If it was only a deployment or a crash of the machine, "
            "nothing needs to be done.",
            f"{CAUSE}pgq show {row['id']}; pgq cancel {row['id']} takes it away.",
            row,
        )
    if not is_complete:
        yield not_searched("suspect-job")


@check(Needs.OWNER)
def crash_loop(reading: Reading) -> Iterator[Finding | Unseen]:
    """Yield jobs that have lost their worker again and again."""
    rows, is_complete = searched(reading, LOOPING)
    for row in rows:
        yield Finding(
            "crash-loop",
            "error",
            f'job {row["id"]} of kind "{row["kind"]}" has lost its worker {number(row["times"], "time")}: '
            f"{row['error']}",
            "Each attempt ends the worker, or takes longer than its lease. It goes on after longer and longer delays, "
            "until the retries of the job are used up; what its workers did meanwhile is interrupted each time.",
            f"{CAUSE}pgq cancel {row['id']} takes the job away, and pgq retry {row['id']} puts it back when that is "
            "mended.",
            row,
        )
    if not is_complete:
        yield not_searched("crash-loop")


CHECKS: Final[tuple[Check, ...]] = (suspect_job, crash_loop)
