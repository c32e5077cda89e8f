"""Schedules as a program makes them: by calls, and declared by handlers."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from support.database import Connection, one

from pgq import Handlers, Queue, Views, WorkerQueue
from pgq.declare import apply, changes
from pgq.testing import Clock


def sync(conn: Connection, handlers: Handlers, source: str = "tasks") -> list[str]:
    """Make the declared schedules; return what has changed, as sign and name."""
    queue, views = Queue(conn, handlers=handlers), Views(conn)
    found = changes(queue, views, source)
    apply(queue, found, source)
    assert [change for change in changes(queue, views, source) if change.action != "leave"] == []
    return [f"{change.action} {change.name}: {change.text}" for change in found]


def with_schedule(*kinds: str, **options: Any) -> Handlers:
    """Return handlers of these kinds that have a schedule."""
    handlers = Handlers()
    for kind in kinds:
        handlers.handler(kind, **{"schedule": "0 7 * * *"} | options)(lambda job: None)
    return handlers


def test_calls_pass_each_argument_on(conn: Connection, clock: Clock) -> None:
    queue = WorkerQueue(conn)
    at = queue.schedule(
        "s", "0 7 * * mon-fri", "report", {"days": 1}, queue="q", timezone="Europe/Berlin", catch_up="all",
        overlap="allow", jitter=timedelta(hours=30), priority=2, max_retries=3, backoff="90 s", backoff_cap="2 h",
        group_key="g", source="tasks",
    )  # fmt: skip
    assert at.isoformat() == "2030-01-02T06:00:00+00:00"
    (row,) = Views(conn).schedules()
    assert row == {
        "name": "s", "cron": "0 7 * * mon-fri", "timezone": "Europe/Berlin", "queue": "q", "kind": "report",
        "args": {"days": 1}, "priority": 2, "max_retries": 3, "backoff": timedelta(seconds=90),
        "backoff_cap": timedelta(hours=2), "group_key": "g", "catch_up": "all", "overlap": "allow",
        "jitter": timedelta(hours=30), "source": "tasks", "paused": False, "next_at": at, "last_at": None,
        "last_job": None, "last_error": None, "last_error_at": None, "missed": 0, "sensitive": False,
    }  # fmt: skip
    assert one(conn, "SELECT jitter::text FROM pgq_schedules") == "30:00:00"
    assert [queue.pause_schedule("s"), queue.pause_schedule("s")] == [True, False]
    assert queue.resume_schedule("s") == at
    job_id = queue.run_schedule("s")
    (job,) = queue.claim(["q"])
    assert (job.id, job.args, json.loads(job.context or "")) == (
        job_id, {"days": 1}, {"schedule": "s", "slot": "2030-01-01T12:00:00.000000Z"},
    )  # fmt: skip
    assert [queue.unschedule("s"), queue.unschedule("s")] == [True, False]
    with pytest.raises(psycopg.errors.UndefinedObject):
        queue.run_schedule("s")


def test_a_schedule_takes_the_defaults_of_its_handler(conn: Connection) -> None:
    handlers = Handlers()
    handlers.handler("k", queue="slow", max_retries=1, group_key=lambda args: args["tenant"])(lambda job: None)
    Queue(conn, handlers=handlers).schedule("s", "@daily", "k", {"tenant": "t"}, max_retries=2)
    assert conn.execute("SELECT queue, max_retries, group_key FROM pgq_schedules").fetchone() == ("slow", 2, "t")


def test_what_handlers_declare_is_made_changed_and_removed(conn: Connection) -> None:
    assert sync(conn, with_schedule("a", "b")) == ["add a: 0 7 * * * UTC", "add b: 0 7 * * * UTC"]
    assert sync(conn, with_schedule("a", "b")) == []
    assert sync(conn, with_schedule("b", timezone="Europe/Berlin", queue="q", jitter=timedelta(seconds=5))) == [
        "remove a: 0 7 * * *",
        "change b: queue: default -> q, timezone: UTC -> Europe/Berlin, jitter: 0:00:00 -> 0:00:05",
    ]
    assert conn.execute("SELECT name, queue, timezone, source FROM pgq_schedules").fetchall() == [
        ("b", "q", "Europe/Berlin", "tasks")
    ]
    assert sync(conn, with_schedule("b", catch_up="all")) == [
        "change b: queue: q -> default, timezone: Europe/Berlin -> UTC, catch_up: one -> all, jitter: 0:00:05 -> "
        "0:00:00, overlap: skip -> allow"
    ]
    assert sync(conn, with_schedule("b", schedule="@daily", backoff=timedelta(hours=1))) == [
        "change b: catch_up: all -> one, backoff: None -> 1:00:00, overlap: allow -> skip, cron: 0 7 * * * -> @daily"
    ]


def test_schedules_that_others_have_made_stay_as_they_are(conn: Connection) -> None:
    """Also those with the name of a kind that a handler declares."""
    queue = Queue(conn)
    queue.schedule("a", "@monthly", "a")
    queue.schedule("b", "@monthly", "b", source="other")
    queue.schedule("c", "@monthly", "c")
    assert sync(conn, with_schedule("a", "b", "d")) == [
        "leave a: it was made by hand", "leave b: it was made by other", "add d: 0 7 * * * UTC",
    ]  # fmt: skip
    assert sync(conn, Handlers()) == ["remove d: 0 7 * * *"]
    assert conn.execute("SELECT name, cron FROM pgq_schedules ORDER BY name").fetchall() == [
        ("a", "@monthly"), ("b", "@monthly"), ("c", "@monthly"),
    ]  # fmt: skip


def test_a_declaration_that_is_refused_changes_nothing(conn: Connection) -> None:
    handlers = with_schedule("a")
    handlers.handler("b", schedule="every now and then")(lambda job: None)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        sync(conn, handlers)
    assert Views(conn).schedules() == []


def test_options_of_a_schedule_need_a_schedule(handlers: Handlers) -> None:
    with pytest.raises(ValueError, match="timezone is given without a schedule"):
        handlers.handler("k", timezone="Europe/Berlin")
