"""The schedules, and of one of them what comes next and what it has enqueued."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from pgq.errors import Error
from pgq.web.database import Reader
from pgq.web.site import Ask

MOST: Final = 100
AHEAD: Final = 8
BEHIND: Final = 200
COLUMNS: Final = (
    "name, cron, timezone, queue, kind, catch_up, overlap, jitter, source, paused, next_at, last_at, last_job, "
    "last_error_at, missed, sensitive"
)


def page(ask: Ask) -> Response:
    """Return the page of all schedules, in the order of their names."""
    after = ask.get("after")
    with ask.reading() as reader:
        error = last_error(reader)
        rows = reader.rows(
            f"SELECT {COLUMNS}, {error}, {{p}}pgq_now() AS now FROM {{p}}pgq_schedules "
            "WHERE %(after)s::text IS NULL OR name > %(after)s::text ORDER BY name LIMIT %(most)s::integer",
            {"after": after, "most": MOST + 1},
        )
        now = reader.rows("SELECT {p}pgq_now() AS now")[0]["now"]
    shown = rows[:MOST]
    return ask.page(
        "schedules.html",
        schedules=shown,
        after=after,
        now=now,
        next_after=shown[-1]["name"] if len(rows) > MOST else None,
    )


def show_page(ask: Ask) -> Response:
    """Return the page of one schedule."""
    name = ask.get("name")
    with ask.reading() as reader:
        schedule = reader.row(
            f"SELECT {COLUMNS}, {last_error(reader)}, {{p}}pgq_now() AS now FROM {{p}}pgq_schedules "
            "WHERE name = %(name)s::text",
            {"name": name},
        )
        if schedule is None:
            raise Error("there is no such schedule", hint="Another role may have removed it.")
        ahead = [] if schedule["next_at"] is None else slots(reader, schedule)
        history = enqueued(reader, schedule)
    return ask.page("schedule.html", schedule=schedule, ahead=ahead, history=history, now=schedule["now"])


def last_error(reader: Reader) -> str:
    """Return the column of the newest error, as far as the role may read it."""
    return (
        "CASE WHEN NOT sensitive THEN last_error END AS last_error"
        if reader.may_read("pgq_schedules", "last_error")
        else "NULL::text AS last_error"
    )


def slots(reader: Reader, schedule: dict[str, Any]) -> list[Any]:
    """Return the next slots of a schedule."""
    rows = reader.rows(
        "WITH RECURSIVE slot AS (SELECT %(next)s::timestamptz AS at, 1 AS n UNION ALL "
        "SELECT {p}pgq_cron_next(%(cron)s::text, at, %(timezone)s::text), n + 1 FROM slot "
        "WHERE n < %(most)s::integer AND at IS NOT NULL) SELECT at FROM slot WHERE at IS NOT NULL ORDER BY n",
        {"next": schedule["next_at"], "cron": schedule["cron"], "timezone": schedule["timezone"], "most": AHEAD},
    )
    return [row["at"] for row in rows]


def enqueued(reader: Reader, schedule: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the jobs of a schedule that are still there; None if the role may not see whose they are."""
    if schedule["sensitive"] or not reader.may_read("pgq_jobs", "context"):
        return None
    # In two statements: a join of the view with the numbers would read all jobs.
    found = reader.rows(
        "SELECT ids FROM {p}pgq_find_jobs(NULL, %(queue)s::text, %(kind)s::text, max_jobs => %(most)s::bigint)",
        {"queue": schedule["queue"], "kind": schedule["kind"], "most": BEHIND},
    )[0]
    return reader.rows(
        "SELECT id, state, enqueued_at, claimed_at, ended_at, context->>'slot' AS slot FROM {p}pgq_jobs "
        "WHERE id = ANY (%(ids)s::bigint[]) AND context->>'schedule' = %(name)s::text ORDER BY id DESC LIMIT 20",
        {"ids": found["ids"], "name": schedule["name"]},
    )
