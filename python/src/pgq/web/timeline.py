"""What has happened to a job, in the order of time, as far as the database remembers it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True)
class Event:
    """A line of the timeline. ``gap`` is the time since the one before; ``sign`` names the state that its dot shows."""

    at: datetime
    sign: str
    title: str
    note: str = ""
    gap: timedelta | None = None
    error: dict[str, Any] | None = None
    is_ahead: bool = False


def timeline(job: dict[str, Any], now: datetime) -> list[Event]:
    """Return the events of a job, the oldest first."""
    events = [Event(job["enqueued_at"], "waiting", "Enqueued")]
    for error in job["errors"]:
        title = "Note" if error.get("declined") is not None else f"Attempt {error['attempt']} failed"
        if job["state"] == "done" and error is job["errors"][0] and job["ended_at"] == error["at"]:
            title = "Note"
        by = f"by {error['worker']}" if error["worker"] else ""
        events.append(Event(error["at"], "waiting" if title == "Note" else "dead", title, by, error=error))
    if job["claimed_at"] is not None:
        by = f"by {job['worker']}" if job["worker"] else ""
        events.append(Event(job["claimed_at"], "running", f"Attempt {job['attempt']} began", by))
    if job["cancel_requested_at"] is not None:
        events.append(Event(job["cancel_requested_at"], "cancelled", "An operator asked the worker to cancel it"))
    if job["ended_at"] is not None:
        took = ""
        if job["claimed_at"] is not None and job["state"] == "done":
            took = f"after {(job['ended_at'] - job['claimed_at']).total_seconds():.2f} s"
        words = {"done": "Done", "dead": "Dead: failed for good", "cancelled": "Cancelled"}
        events.append(Event(job["ended_at"], job["state"], words[job["state"]], took))
    events.sort(key=lambda event: event.at)
    events += ahead(job, now)
    return [
        Event(e.at, e.sign, e.title, e.note, e.at - events[n - 1].at if n else None, e.error, e.is_ahead)
        for n, e in enumerate(events)
    ]


def ahead(job: dict[str, Any], now: datetime) -> list[Event]:
    """Return what comes next, as far as it has a time."""
    if job["state"] == "waiting" and job["ripe_at"] > now:
        signal = job["waits_for_signal"]
        title = "Goes on without the signal" if signal is not None else "May be claimed"
        return [Event(job["ripe_at"], "waiting", title, is_ahead=True)]
    if job["state"] == "waiting":
        return [Event(now, "waiting", "Ripe: the next free worker takes it", is_ahead=True)]
    if job["state"] == "blocked":
        jobs = len(job["after"])
        return [
            Event(now, "blocked", f"Blocked: waits for {jobs:,} other job{'' if jobs == 1 else 's'}", is_ahead=True)
        ]
    if job["state"] == "running":
        late = job["lease_until"] < now
        title = "Its lease has ended" if late else "Its lease ends, unless the worker extends it"
        return [Event(job["lease_until"], "running", title, is_ahead=not late)]
    return []
