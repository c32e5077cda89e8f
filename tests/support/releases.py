"""The releases in the list of changes, and queries that are the same in all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pgq import Job, WorkerQueue
from pgq.convert import Interval
from support.database import Connection
from support.paths import ROOT

CHANGES = (ROOT / "CHANGELOG.md").read_text()
CHANGELOG = re.findall(r"^## (\d+\.\d+\.\d+), (\S.*)$", CHANGES, re.MULTILINE)


def is_clean_break(version: str, changes: str = CHANGES) -> bool:
    """Return whether the entry of a version begins with "A clean break: ", so that older callers need not go on."""
    return re.search(rf"^## {re.escape(version)}, .*\n\nA clean break: ", changes, re.MULTILINE) is not None


def jobs_of_any(conn: Connection) -> list[tuple[Any, ...]]:
    """Return the id, state and attempt of all jobs, whatever the view of them is called."""
    return conn.execute(
        "SELECT id, 'waiting', attempt FROM pgq_waiting UNION ALL SELECT id, 'running', attempt FROM pgq_running "
        "UNION ALL SELECT id, outcome, attempt FROM pgq_ended ORDER BY id"
    ).fetchall()


class QueueOfAny(WorkerQueue):
    """The queue of any release: its claim has the arguments and columns that all of them have."""

    def claim(
        self,
        queues: Sequence[str] = ("default",),
        max_jobs: int = 1,
        lease: Interval | None = None,
        worker: str | None = None,
        max_bytes: int = 0,
    ) -> list[Job]:
        """Claim jobs, for five minutes by default; ``max_bytes`` is ignored."""
        return self._jobs(
            "SELECT id, token, queue, kind, args::text, attempt, max_retries, priority, ripe_at, enqueued_at, "
            "lease_until, context::text FROM pgq_claim(%s::text[], %s::integer, %s::interval, %s::text)",
            [list(queues), max_jobs, lease or timedelta(minutes=5), worker],
        )
