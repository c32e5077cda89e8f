"""What the keys of ``pgq top`` do to queues and jobs: to so many jobs at most, each in a transaction of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from pgq.errors import Error, JobNotFound, WrongState
from pgq.queue import Queue
from pgq.views import Views

MOST: Final = 500
# Milliseconds for the search of the jobs.
SEARCH_TIMEOUT: Final = 5000


@dataclass(frozen=True)
class Action:
    """An action, and what it is about: a queue, a kind in it, one job, or the jobs that died with an error."""

    verb: str
    queue: str
    kind: str | None = None
    job: int | None = None
    error: str | None = None

    @property
    def question(self) -> str:
        """The question that is asked before."""
        if self.verb in ("pause", "resume"):
            return f"{self.verb} queue {self.queue}?"
        if self.job is not None:
            return f"{self.verb} job {self.job} ({self.queue}/{self.kind})?"
        jobs = f"{'dead' if self.verb == 'retry' else 'waiting'} jobs of {self.queue}"
        kind = "" if self.kind is None else f"/{self.kind}"
        error = "" if self.error is None else f" with {self.error!r}"
        return f"{self.verb} up to {MOST} {jobs}{kind}{error}?"

    def perform(self, conn: psycopg.Connection[Any], schema: str | None) -> str:
        """Do it, and return what was done."""
        queue = Queue(conn, schema=schema)
        if self.verb == "pause":
            queue.pause(self.queue)
            return f"queue {self.queue} is paused"
        if self.verb == "resume":
            return f"queue {self.queue} {'goes on' if queue.resume(self.queue) else 'was not paused'}"
        if self.verb == "retry":
            return self._change(conn, schema, "dead", queue.retry, "retried")
        return self._change(conn, schema, "waiting", queue.cancel, "cancelled")

    def _change(
        self,
        conn: psycopg.Connection[Any],
        schema: str | None,
        state: str,
        change: Callable[[int], str],
        done: str,
    ) -> str:
        """Retry or cancel the jobs, and return how many."""
        if self.job is not None:
            return f"job {self.job}: {change(self.job)}"
        changed = 0
        jobs = self._jobs(conn, schema, state)
        for job in jobs:
            try:
                change(job)
                changed += 1
            except (JobNotFound, WrongState, psycopg.errors.LockNotAvailable):
                # It has moved on meanwhile.
                continue
        more = "; there may be more" if len(jobs) == MOST else ""
        return f"{changed} jobs {done}{more}"

    def _jobs(self, conn: psycopg.Connection[Any], schema: str | None, state: str) -> Sequence[int]:
        """Return the newest of the jobs that are meant."""
        with conn.transaction():
            conn.execute("SELECT set_config('statement_timeout', %s, true)", [str(SEARCH_TIMEOUT)])
            rows = Views(conn, schema=schema).jobs(state, self.queue, self.kind, MOST)
        return [row["id"] for row in rows if self.error is None or row["error"] == self.error]


def reason(error: Exception) -> str:
    """Return the first line of an error, and its hint."""
    if isinstance(error, Error):
        return f"{error}{'. ' + error.hint if error.hint else ''}"
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        hint = error.diag.message_hint
        return f"{error.diag.message_primary}{'. ' + hint if hint else ''}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
