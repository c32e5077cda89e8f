"""Jobs that wait for other jobs in vain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pgq.doctor.finding import Finding
from pgq.doctor.reading import Check, Needs, Reading, check
from pgq.doctor.words import number

# In the order of the index, and no more than some thousand needs: each is looked for in all tables. One statement, or a
# job that moves meanwhile would be in none of them.
OVER: Final = """
    SELECT n.job, n.needs, b.queue, b.kind, b.after_failed, ended.outcome
    FROM (SELECT o.job, o.needs FROM pgq_need AS o ORDER BY o.job, o.needs LIMIT %(rows)s) AS n
    JOIN pgq_blocked AS b ON b.id = n.job
    LEFT JOIN pgq_ended AS ended ON ended.id = n.needs
    WHERE NOT EXISTS (SELECT FROM pgq_waiting AS w WHERE w.id = n.needs)
      AND NOT EXISTS (SELECT FROM pgq_running AS r WHERE r.id = n.needs)
      AND NOT EXISTS (SELECT FROM pgq_blocked AS o WHERE o.id = n.needs)
      AND n.needs NOT IN (SELECT unnest(p.ids) FROM pgq_running_batch AS p)
    ORDER BY n.job, n.needs
    LIMIT %(rows)s
"""


@check(Needs.OWNER)
def blocked_in_vain(reading: Reading) -> Iterator[Finding]:
    """Yield blocked jobs whose prerequisites live nowhere any more."""
    over = reading.rows(OVER, rows=reading.thresholds.rows)
    gone = [row for row in over if row["after_failed"] != "wait" or row["outcome"] not in {"dead", "cancelled"}]
    if gone:
        jobs = sorted({row["job"] for row in gone})
        yield Finding(
            "blocked-in-vain",
            "error",
            f"{number(len(jobs), 'job')} {'is' if len(jobs) == 1 else 'are'} blocked by jobs that are over, among them "
            f'job {jobs[0]} of kind "{gone[0]["kind"]}" by job {gone[0]["needs"]}',
            "Maintenance unblocks or cancels such jobs within seconds, on the side of claims. So nobody claims, or "
            "each try fails.",
            "Start a worker, for any queue. If the finding stays: pgq show "
            f"{jobs[0]} --tree, and pgq cancel {jobs[0]} to give the job up.",
            {"jobs": jobs[:100], "needs": sorted({row["needs"] for row in gone})[:100]},
        )


@check(Needs.OWNER)
def blocked_by_failed(reading: Reading) -> Iterator[Finding]:
    """Yield blocked jobs that wait until a dead or cancelled prerequisite is retried."""
    over = reading.rows(OVER, rows=reading.thresholds.rows)
    held = [row for row in over if row["after_failed"] == "wait" and row["outcome"] in {"dead", "cancelled"}]
    if held:
        jobs = sorted({row["job"] for row in held})
        failed = sorted({row["needs"] for row in held})
        yield Finding(
            "blocked-by-failed",
            "warning",
            f"{number(len(jobs), 'job')} wait{'s' if len(jobs) == 1 else ''} until somebody retries "
            f"{number(len(failed), 'job')} that {'is' if len(failed) == 1 else 'are'} dead or cancelled",
            "They were enqueued with after_failed => 'wait'. Nothing else lets them go on.",
            f"pgq retry {' '.join(map(str, failed[:10]))} runs the prerequisites again; pgq cancel "
            f"{' '.join(map(str, jobs[:10]))} gives up what waits.",
            {"jobs": jobs[:100], "needs": failed[:100]},
        )


CHECKS: Final[tuple[Check, ...]] = (blocked_in_vain, blocked_by_failed)
