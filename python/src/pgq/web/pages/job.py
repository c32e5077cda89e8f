"""One job: what has happened to it, what it was given, what it has saved, and what it waits for."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

from starlette.responses import Response

from pgq.views import not_found
from pgq.web import graph
from pgq.web.database import Reader
from pgq.web.site import Ask
from pgq.web.timeline import timeline

COLUMNS: Final = (
    "id, state, queue, kind, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup, enqueued_at, "
    "worker, claimed_at, lease_until, ended_at, losses, cancel_requested_at, after, waits_for_signal, sensitive"
)
# Text that is shown of one value: more would make a page that no browser likes.
LONGEST: Final = 20_000
# Values from this level on are not laid out: the spaces before them could be a thousand times as long as the text.
DEEPEST: Final = 16
# What is read of them. Of JSON it is the begin and the length. PostgreSQL lays it out, because Python would read
# numbers with less than all their digits.
JSON: Final = ("args", "result", "context", "saved")
PRIVATE: Final = {
    **{name: f"{name}::text" for name in ("dedup_key", "errors", "group_key")},
    **{
        name: f"(SELECT ARRAY[left(t, {LONGEST}), length(t)::text] FROM (SELECT CASE "
        f"WHEN jsonb_path_exists({name}, '$.**{{{DEEPEST}}}') THEN {name}::text ELSE jsonb_pretty({name}) END "
        "OFFSET 0) AS one (t))"
        for name in JSON
    },
    "progress": "(saved->'progress')::text",
}
# Of the note that a handler has told with its progress.
LONGEST_NOTE: Final = 1000
CAN_CANCEL: Final = ("waiting", "blocked", "running")
CAN_RETRY: Final = ("dead", "cancelled")


def page(ask: Ask) -> Response:
    """Return the page of a job."""
    job_id = int(ask.request.path_params["id"])
    with ask.reading() as reader:
        job = read(reader, job_id, show_sensitive=ask.get("show") == "all")
        neighbours = graph.near(reader, job_id)
    now = job["now"]
    return ask.page(
        "job.html",
        job=job,
        now=now,
        timeline=timeline(job, now),
        graph=graph.drawn(job_id, neighbours, ask) if neighbours.links else None,
        neighbours=neighbours,
        can_cancel=job["state"] in CAN_CANCEL,
        can_retry=job["state"] in CAN_RETRY,
    )


def read(reader: Reader, job_id: int, *, show_sensitive: bool) -> dict[str, Any]:
    """
    Return a job; what the role may not read is None.

    Nor is what belongs to a sensitive queue read, unless it is asked for. ``hidden`` says why: role, sensitive, or "".
    """
    may_read = reader.may_read("pgq_jobs", "args")
    shown = "true" if show_sensitive else "NOT sensitive"
    private = ", ".join(
        f"CASE WHEN {shown} THEN {text} END AS {name}" if may_read else f"NULL::text AS {name}"
        for name, text in PRIVATE.items()
    )
    # Arguments are never NULL: where they are, an admin of other queues looks.
    is_admin = "args IS NOT NULL" if may_read else "false"
    job = reader.row(
        f"SELECT {COLUMNS}, {private}, {is_admin} AS is_admin, {{p}}pgq_now() AS now FROM {{p}}pgq_jobs "
        "WHERE id = %(id)s::bigint",
        {"id": job_id},
    )
    if job is None:
        raise not_found(job_id)
    job["hidden"] = "role" if not job["is_admin"] else "sensitive" if job["args"] is None else ""
    job["errors"] = [parsed(error) for error in json.loads(job["errors"] or "[]")]
    job["progress"] = progress_of(job["progress"])
    for name in JSON:
        text, length = job[name] or (None, None)
        if text is not None and (more := int(length or 0) - LONGEST) > 0:
            text += f"\n… and {more:,} characters more: pgq show {job_id}"
        job[name] = text
    return job


def parsed(error: dict[str, Any]) -> dict[str, Any]:
    """Return an error with its time, its last line, which says most in a traceback of Python, and all of its text."""
    text = (error["error"] or "").strip("\r\n")
    lines = text.splitlines() or [""]
    is_traceback = lines[0].startswith("Traceback ")
    return error | {
        "at": datetime.fromisoformat(error["at"]),
        "headline": (lines[-1] if is_traceback else lines[0])[:300],
        "text": text[:LONGEST],
        "is_long": len(lines) > 1,
    }


def progress_of(text: str | None) -> dict[str, Any] | None:
    """Return the progress that a handler in Python has told, as ``done`` and ``note``; None: none."""
    try:
        progress = json.loads(text or "null")
        note = str(progress.get("note") or "")[:LONGEST_NOTE]
        return {"done": min(max(float(progress["done"]), 0.0), 1.0), "note": note}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
