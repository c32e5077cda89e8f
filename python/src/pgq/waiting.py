"""Wait for the end of jobs: notified where the session of the server is that of the connection, asking elsewhere."""

# Made from waiting_async.py by tools/async_to_sync.py; change that.

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from pgq.errors import JobFailed, NotEnded
from pgq.readable import wait_readable

if TYPE_CHECKING:
    from pgq.job import Result
    from pgq.queue import Queue

# Seconds between two looks: at first where no notification comes, growing up to the second one, and where one comes.
FIRST_LOOK: Final = 0.02
LOOK_EVERY: Final = 1.0
GROWTH: Final = 1.5
Timeout = float | timedelta | None


def wait(queue: Queue, job_id: int, timeout: Timeout) -> Result:
    """Do what Queue.wait does."""
    with _outside_transactions(queue.conn):
        result = _ended(queue, job_id, _deadline(timeout))
    if not result.ended:
        raise NotEnded(
            f"job {job_id} is still {result.state}", hint="Wait again, for longer, or ask for its result later."
        )
    if result.state in {"dead", "cancelled"}:
        lines = (result.error or "").strip().splitlines()
        raise JobFailed(
            f"job {job_id} is {result.state}" + (f": {lines[0]}" if lines else ""),
            state=result.state,
            error=result.error,
        )
    return result


def wait_many(queue: Queue, job_ids: Iterable[int], timeout: Timeout) -> list[Result]:
    """
    Do what Queue.wait_many does.

    One job is waited for at a time. When it has ended, all others are looked at once: as it is the one in the middle,
    about half of them have ended, too, whether the first or the last ones end first.
    """
    ids = list(job_ids)
    deadline = _deadline(timeout)
    found: dict[int, Result] = {}
    left = list(dict.fromkeys(ids))
    with _outside_transactions(queue.conn):
        while True:
            found |= {result.id: result for result in queue.results(left)}
            left = [job_id for job_id in left if not found[job_id].ended]
            if not left or _left(deadline) == 0:
                return [found[job_id] for job_id in ids]
            _ended(queue, left[len(left) // 2], deadline)


def _ended(queue: Queue, job_id: int, deadline: float | None) -> Result:
    """Return the result of a job when it has ended, or else its state at the deadline."""
    result = queue.result(job_id)
    if result.ended or _left(deadline) == 0:
        return result
    conn = queue.conn
    with ExitStack() as stack:
        told: list[psycopg.Notify] = []
        notified = _has_own_session(conn)
        if notified:
            stack.enter_context(_listening(queue, job_id, told))
            # The job may have ended before this session was seen to wait.
            result = queue.result(job_id)
        pause = LOOK_EVERY if notified else FIRST_LOOK
        while not result.ended and (left := _left(deadline)) != 0:
            # A notification that came with the last result is in the list, and not in the socket any more.
            if told:
                told.clear()
            else:
                wait_readable(pause if left is None else min(pause, left), conn if notified else None)
            pause = min(pause * GROWTH, LOOK_EVERY)
            result = queue.result(job_id)
    return result


def _has_own_session(conn: psycopg.Connection[Any]) -> bool:
    """
    Return whether the process of the server is that of this connection.

    A client gets the number of the process when it connects. A pooler makes up a number, because its connections
    outlive the processes; a lock or LISTEN there could remain in the session of another client.
    """
    cursor = psycopg.Cursor(conn, row_factory=tuple_row)
    cursor.execute("SELECT pg_catalog.pg_backend_pid()")
    row = cursor.fetchone()
    return row is not None and row[0] == conn.info.backend_pid


@contextmanager
def _listening(queue: Queue, job_id: int, told: list[psycopg.Notify]) -> Iterator[None]:
    """Let this session be notified of the end of a job; the notifications are added to ``told``."""
    conn = queue.conn
    channel = queue.await_end(job_id)

    def add(notify: psycopg.Notify) -> None:
        if notify.channel == channel:
            told.append(notify)

    conn.add_notify_handler(add)
    try:
        _execute(conn, "LISTEN", channel)
        yield
    finally:
        conn.remove_notify_handler(add)
        # A connection that is lost has taken both with it.
        with suppress(psycopg.Error):
            _execute(conn, "UNLISTEN", channel)
            queue.await_end(job_id, False)


def _execute(conn: psycopg.Connection[Any], command: LiteralString, channel: str) -> None:
    psycopg.Cursor(conn).execute(sql.SQL(command) + sql.SQL(" ") + sql.Identifier(channel))


@contextmanager
def _outside_transactions(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Let each statement be a transaction of its own. Raises ValueError if a transaction is open."""
    if conn.info.transaction_status != TransactionStatus.IDLE:
        raise ValueError("a transaction is open, in which the end of a job would not be seen: end it before the wait")
    autocommit = conn.autocommit
    if not autocommit:
        conn.set_autocommit(True)
    try:
        yield
    finally:
        if not autocommit and not conn.closed:
            conn.set_autocommit(False)


def _deadline(timeout: Timeout) -> float | None:
    """Return when a wait ends by the monotonic clock; None: never. Raises ValueError for a negative timeout."""
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else float(timeout)
    if not seconds >= 0:
        raise ValueError(f"timeout {timeout} is negative")
    return monotonic() + seconds


def _left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, 0 if it has passed; None if there is none."""
    return None if deadline is None else max(0.0, deadline - monotonic())
