"""The queues: what they do, what they are allowed to do, and what keeps them still."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from markupsafe import Markup
from starlette.responses import Response

from pgq.overview import Place, Snapshot
from pgq.web import charts
from pgq.web.actions import LIMITS, PAUSES
from pgq.web.database import Reader
from pgq.web.history import Watch
from pgq.web.site import Ask


@dataclass
class Line:
    """A queue, with the numbers of all its kinds."""

    queue: str
    waiting: int = 0
    ripe: int = 0
    blocked: int = 0
    running: int = 0
    dead: int = 0
    oldest: timedelta | None = None
    estimated: bool = False
    unhandled: tuple[str, ...] = ()
    place: Place | None = None
    workers: int = 0


def lines(snapshot: Snapshot) -> list[Line]:
    """Return the queues that have jobs, settings or a pause, those first in which jobs have waited longest."""
    found: dict[str, Line] = {}
    for kind in snapshot.kinds:
        line = found.setdefault(kind.queue, Line(kind.queue))
        line.waiting += kind.waiting
        line.ripe += kind.ripe
        line.blocked += kind.blocked
        line.running += kind.running
        line.dead += kind.dead
        line.estimated |= kind.estimated
        if kind.oldest_ripe_age is not None:
            line.oldest = max(line.oldest or timedelta(0), kind.oldest_ripe_age)
        if kind.handled is False and kind.waiting:
            line.unhandled += (kind.kind,)
    for place in snapshot.places:
        found.setdefault(place.queue, Line(place.queue)).place = place
    for worker in snapshot.workers:
        for queue in worker.queues or ():
            if worker.present and queue in found:
                found[queue].workers += 1
    return sorted(found.values(), key=lambda line: (-(line.oldest or timedelta(0)), line.queue))


def page(ask: Ask) -> Response:
    """Return the page of all queues."""
    watch = ask.site.histories.of(ask.database)
    snapshot = watch.snapshot()
    found = lines(snapshot)
    return ask.page(
        "queues.html",
        snapshot=snapshot,
        queues=found[:200],
        more=len(found) - 200,
        rates={line.queue: watch.rates(line.queue) for line in found[:200]},
        charts={line.queue: spark(watch, line.queue, snapshot.at) for line in found[:20]},
        now=snapshot.at,
    )


def spark(watch: Watch, queue: str, at: datetime) -> Markup:
    """Return a small chart of what has ended in a queue."""
    values = [each.ended if each else None for each in watch.series(at, queue)]
    return charts.area(values, "out small", "Jobs ended a second")


def settings_page(ask: Ask) -> Response:
    """Return the page of one queue: its limits, what it runs by group, and the form that changes the limits."""
    queue = ask.get("queue") or "default"
    snapshot = ask.site.histories.of(ask.database).snapshot()
    with ask.reading() as reader:
        groups = groups_of(reader, queue)
    return ask.page(
        "queue.html",
        queue=queue,
        place=next((place for place in snapshot.places if place.queue == queue), None),
        groups=groups,
        kinds=[kind for kind in snapshot.kinds if kind.queue == queue],
        settings=settings_of(ask, queue),
        now=snapshot.at,
        LIMITS=LIMITS,
        PAUSES=PAUSES,
    )


def settings_of(ask: Ask, queue: str) -> dict[str, Any] | None:
    """Return what is set of a queue; None: only an admin of it may ask."""
    try:
        with ask.reading() as reader:
            row = reader.row("SELECT {p}pgq_configure(%(queue)s::text) AS settings", {"queue": queue})
    except psycopg.errors.InsufficientPrivilege:
        return None
    return dict(row["settings"]) if row else None


def groups_of(reader: Reader, queue: str) -> list[dict[str, Any]] | None:
    """Return the groups of which most jobs run; None: the role may not see groups."""
    if not reader.may_read("pgq_jobs", "group_key"):
        return None
    # In two statements: a join of the view with the numbers would read all jobs.
    found = reader.rows(
        "SELECT ids FROM {p}pgq_find_jobs('running', %(queue)s::text, max_jobs => 1000)", {"queue": queue}
    )[0]
    return reader.rows(
        "SELECT group_key, count(*) AS running FROM {p}pgq_jobs WHERE id = ANY (%(ids)s::bigint[]) "
        "AND group_key IS NOT NULL AND NOT sensitive GROUP BY group_key ORDER BY running DESC, group_key LIMIT 20",
        {"ids": found["ids"]},
    )
