"""Bring the schedules in the database in line with those that handlers declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, NamedTuple

from pgq.queue import Queue
from pgq.views import PRIVATE_OF_SCHEDULE, Views

# What the view shows of a schedule that a handler says nothing about.
DEFAULTS: Final[dict[str, Any]] = {
    "args": {}, "queue": "default", "timezone": "UTC", "catch_up": "one", "jitter": timedelta(0), "priority": 5,
    "max_retries": None, "backoff": None, "backoff_cap": None, "group_key": None,
}  # fmt: skip


class Change(NamedTuple):
    """What is to be done with the schedule of a name, and the arguments of ``Queue.schedule`` where it is to be set."""

    action: Literal["add", "change", "remove", "leave"]
    name: str
    text: str
    arguments: Mapping[str, Any]


def declared(queue: Queue) -> dict[str, dict[str, Any]]:
    """Return the arguments of ``Queue.schedule`` for each handler with a schedule; the kind is the name."""
    return {
        kind: {
            "cron": schedule.cron,
            "kind": kind,
            "timezone": schedule.timezone,
            "catch_up": schedule.catch_up,
            "overlap": schedule.overlap,
            "jitter": schedule.jitter,
        }
        for kind, schedule in queue.handlers.schedules.items()
    }


def differences(queue: Queue, arguments: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """Return what differs between the arguments of a schedule and its row, without what is private: a log has it."""
    wanted = DEFAULTS | {"overlap": "allow" if arguments["catch_up"] == "all" else "skip"}
    wanted |= {name: value for name, value in arguments.items() if value is not None}
    wanted |= queue.handlers.defaults({"kind": arguments["kind"], "args": {}})
    return [
        name if name in PRIVATE_OF_SCHEDULE else f"{name}: {row[name]} -> {value}"
        for name, value in wanted.items()
        if row[name] != value
    ]


def changes(queue: Queue, views: Views, source: str) -> list[Change]:
    """
    Return what differs between the schedules that handlers declare and those in the database, by name.

    Only schedules that were made with the same source are changed or removed; the others are left as they are.
    """
    rows = {row["name"]: row for row in views.schedules(show_args=True)}
    wanted = declared(queue)
    found: list[Change] = []
    for name in sorted(wanted.keys() | rows.keys()):
        arguments, row = wanted.get(name), rows.get(name)
        if arguments is None:
            if row is not None and row["source"] == source:
                found.append(Change("remove", name, row["cron"], {}))
        elif row is None:
            found.append(Change("add", name, f"{arguments['cron']} {arguments['timezone'] or 'UTC'}", arguments))
        elif row["source"] != source:
            by = "by hand" if row["source"] is None else f"by {row['source']}"
            found.append(Change("leave", name, f"it was made {by}", arguments))
        elif texts := differences(queue, arguments, row):
            found.append(Change("change", name, ", ".join(texts), arguments))
    return found


def apply(queue: Queue, found: Sequence[Change], source: str) -> None:
    """Make these changes, in one transaction."""
    with queue.conn.transaction():
        for change in found:
            if change.action == "remove":
                queue.unschedule(change.name)
            elif change.action != "leave":
                queue.schedule(change.name, **change.arguments, source=source)
