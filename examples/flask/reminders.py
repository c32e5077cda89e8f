"""
Reminders: what a request does with them, and the handler of their jobs. `REMINDERS_URL=… pgq worker reminders`

REMINDERS_URL is called for each reminder that is due, as an incoming webhook of a chat is.
"""

from __future__ import annotations

import json
import os
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import dict_row

import pgq


def add(conn: Connection[Any], key: UUID, text: str, delay: timedelta) -> bool:
    """Add a reminder and its job; return whether it is new. A form that is sent twice has one key, and adds one."""
    due = datetime.now(UTC) + delay
    added = conn.execute(
        "INSERT INTO reminder (key, text, due) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", [key, text, due]
    )
    if added.rowcount == 0:
        return False
    job = pgq.Queue(conn).enqueue("remind", {"reminder": key}, ripe_at=due)
    conn.execute("UPDATE reminder SET job_id = %s WHERE key = %s", [job.id, key])
    return True


def newest(conn: Connection[Any]) -> list[tuple[dict[str, Any], pgq.Result]]:
    """Return reminders, the latest first, each with what becomes of its job."""
    query = (
        "SELECT text, due AT TIME ZONE 'UTC' AS due, sent_at, job_id FROM reminder ORDER BY reminder.due DESC LIMIT 50"
    )
    reminders = conn.cursor(row_factory=dict_row).execute(query).fetchall()
    results = pgq.Queue(conn).results(reminder["job_id"] for reminder in reminders)
    return list(zip(reminders, results, strict=True))


@pgq.handler("remind", transaction=True, max_retries=5, backoff=timedelta(seconds=30), timeout=20)
def remind(reminder: str, *, job: pgq.Job, conn: Connection[Any]) -> None:
    """
    Send a reminder. What is written here commits with the end of the job, and is undone when a line raises; the next
    attempt comes after half a minute, then after a minute, after two, ...
    """
    row = conn.execute(
        "UPDATE reminder SET sent_at = %s WHERE key = %s RETURNING text", [datetime.now(UTC), reminder]
    ).fetchone()
    if row is None:
        raise pgq.Cancel("the reminder was deleted")
    send(row[0], reminder)


def send(text: str, key: str) -> None:
    """Call the chat. A call that may have arrived is repeated with the same key, by which the chat knows it."""
    body = json.dumps({"text": text}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    request = urllib.request.Request(os.environ["REMINDERS_URL"], body, headers)
    urllib.request.urlopen(request, timeout=10).close()
