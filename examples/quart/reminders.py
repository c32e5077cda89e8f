"""
Reminders: what a request does with them, and the handler of their jobs. `REMINDERS_URL=… pgq worker reminders`

REMINDERS_URL is called for each reminder that is due, as an incoming webhook of a chat is.
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row

import pgq


async def add(conn: AsyncConnection[Any], key: UUID, text: str, delay: timedelta) -> bool:
    """Add a reminder and its job; return whether it is new. A form that is sent twice has one key, and adds one."""
    due = datetime.now(UTC) + delay
    added = await conn.execute(
        "INSERT INTO reminder (key, text, due) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", [key, text, due]
    )
    if added.rowcount == 0:
        return False
    job = await pgq.AsyncQueue(conn).enqueue("remind", {"reminder": key}, ripe_at=due)
    await conn.execute("UPDATE reminder SET job_id = %s WHERE key = %s", [job.id, key])
    return True


async def newest(conn: AsyncConnection[Any]) -> list[tuple[dict[str, Any], pgq.Result]]:
    """Return reminders, the latest first, each with what becomes of its job."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(
        "SELECT text, due AT TIME ZONE 'UTC' AS due, sent_at, job_id FROM reminder ORDER BY reminder.due DESC LIMIT 50"
    )
    reminders = await cursor.fetchall()
    results = await pgq.AsyncQueue(conn).results(reminder["job_id"] for reminder in reminders)
    return list(zip(reminders, results, strict=True))


@pgq.handler("remind", transaction=True, max_retries=5, backoff=timedelta(seconds=30), timeout=20)
async def remind(reminder: str, *, job: pgq.AsyncJob, conn: AsyncConnection[Any]) -> None:
    """
    Send a reminder. What is written here commits with the end of the job, and is undone when a line raises; the next
    attempt comes after half a minute, then after a minute, after two, ...
    """
    cursor = await conn.execute(
        "UPDATE reminder SET sent_at = %s WHERE key = %s RETURNING text", [datetime.now(UTC), reminder]
    )
    row = await cursor.fetchone()
    if row is None:
        raise pgq.Cancel("the reminder was deleted")
    await asyncio.to_thread(send, row[0], reminder)


def send(text: str, key: str) -> None:
    """Call the chat. A call that may have arrived is repeated with the same key, by which the chat knows it."""
    body = json.dumps({"text": text}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    request = urllib.request.Request(os.environ["REMINDERS_URL"], body, headers)
    urllib.request.urlopen(request, timeout=10).close()
