"""The jobs of a test, in its transaction."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from pgq.connection import rows_of
from pgq.convert import dumps
from pgq.testing.clock import Clock, time_travel
from pgq.worker.inline import InlineWorker

ANY: Final[Any] = object()
# Most jobs that a failed assertion shows.
SHOWN: Final = 10
FIND: Final = (
    "SELECT id, state, queue, kind, args, priority, ripe_at, attempt, group_key, "
    "args @> %s::jsonb IS NOT FALSE AS same FROM pgq_jobs "
    "WHERE state IN ('waiting', 'blocked') AND (%s::text IS NULL OR queue = %s) ORDER BY id"
)


class Jobs:
    """
    The jobs that wait in the transaction of a test: look at them, run them, and move the clock.

    The fixture ``pgq_jobs`` of pytest is one of these. ``clocks`` is closed when the test ends.
    """

    def __init__(self, worker: InlineWorker, clocks: ExitStack) -> None:
        self.worker = worker
        self._clocks = clocks
        self._clock: Clock | None = None

    def drain(self, *queues: str) -> dict[str, int]:
        """
        Run what is ripe in these queues, or in all, until nothing is; return how often handlers came to each end.

        An end is one of done, retry, dead, snoozed, cancelled, merged, released, declined (a job of this kind has no
        handler) and lost. What failed is in the log, and its error in ``pgq_jobs``.
        """
        return dict(self.worker.drain(queues or None))

    def enqueued(self, kind: str, *, args: Any = ANY, queue: str | None = None) -> list[dict[str, Any]]:
        """
        Return the jobs of a kind that wait, ripe or not, or are blocked. Raises AssertionError if there is none.

        ``args`` are those that the job must contain: ``{"to": "bob"}`` is found in ``{"to": "bob", "copies": 2}``.
        """
        __tracebackhide__ = True
        waiting = self._waiting(args, queue)
        found = [_job(row) for row in waiting if row["kind"] == kind and row["same"]]
        if found:
            return found
        of_kind = [row for row in waiting if row["kind"] == kind]
        lines = [f"no {_name(kind, args, queue)} waits"]
        for row in of_kind[:SHOWN]:
            lines.append(f"  {_described(row)}")
            lines += [f"    {line}" for line in differences(args, row["args"])]
        if not of_kind:
            others = sorted({str(row["kind"]) for row in waiting})
            lines.append(f"  what waits is of kind {', '.join(others)}" if others else "  nothing waits")
        raise AssertionError("\n".join([*lines, *_more(of_kind)]))

    def not_enqueued(self, kind: str | None = None, *, args: Any = ANY, queue: str | None = None) -> None:
        """Raise AssertionError if such a job waits or is blocked."""
        __tracebackhide__ = True
        waiting = self._waiting(args, queue)
        found = [row for row in waiting if (kind is None or row["kind"] == kind) and row["same"]]
        if found:
            lines = [f"a {_name(kind, args, queue)} waits", *(f"  {_described(row)}" for row in found[:SHOWN])]
            raise AssertionError("\n".join([*lines, *_more(found)]))

    def travel(self, by: str | timedelta) -> datetime:
        """
        Stop the clocks of this process and of all sessions of the database, and move them; return the time.

        Text is an interval as PostgreSQL reads it. The clocks go on when the test ends; no rollback moves them.
        """
        conn = self.worker.conn
        query = "SELECT %s::timestamptz + %s::interval"
        ((moved,),) = rows_of(conn, query, [datetime.now(UTC), by])
        to: datetime = moved.astimezone(UTC)
        if self._clock is None:
            self._clock = self._clocks.enter_context(time_travel(conn, to=to.replace(tzinfo=None)))
        else:
            self._clock.move_to(to.replace(tzinfo=None))
        return to

    def _waiting(self, args: Any, queue: str | None) -> list[dict[str, Any]]:
        """Return all that waits in a queue, or in all; ``same`` is whether it contains these args."""
        text = None if args is ANY else dumps(args, self.worker.handlers.json_hook)
        return psycopg.Cursor(self.worker.conn, row_factory=dict_row).execute(FIND, [text, queue, queue]).fetchall()


def differences(expected: Any, found: Any, path: str = "args") -> list[str]:
    """Return a line for each part of a value that another one does not contain."""
    if expected is ANY:
        return []
    if isinstance(expected, dict) and isinstance(found, dict):
        lines = []
        for key, value in expected.items():
            if key in found:
                lines += differences(value, found[key], f"{path}[{key!r}]")
            else:
                lines.append(f"{path} has no {key!r}, which should be {value!r}")
        return lines
    if isinstance(expected, list) and isinstance(found, list):
        missing = [one for one in expected if all(differences(one, other) for other in found)]
        return [f"{path} is {found!r} and lacks {one!r}" for one in missing]
    if expected == found and isinstance(expected, bool) == isinstance(found, bool):
        return []
    return [f"{path} is {found!r}, not {expected!r}"]


def _job(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "same"}


def _name(kind: str | None, args: Any, queue: str | None) -> str:
    """Return what is looked for."""
    of_kind = "" if kind is None else f" of kind {kind}"
    with_args = "" if args is ANY else f" with args {args!r}"
    return f"job{of_kind}{with_args}{'' if queue is None else f' in queue {queue}'}"


def _described(row: dict[str, Any]) -> str:
    """Return a line about a job."""
    at = f"{row['ripe_at'].astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return f"job {row['id']} {row['kind']} {row['args']!r}: {row['state']} in queue {row['queue']}, ripe at {at} UTC"


def _more(rows: list[dict[str, Any]]) -> list[str]:
    return [f"  and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
