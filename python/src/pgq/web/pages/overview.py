"""The first page: is it moving, what waits longest, what died and why, who works, what stands still, what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from starlette.responses import Response

from pgq.doctor import Finding
from pgq.overview import Rates, Snapshot
from pgq.web import charts
from pgq.web.history import Watch
from pgq.web.pages.queues import lines
from pgq.web.show import clock, duration, rate
from pgq.web.site import Ask

# The code of the doctor's findings that are shown as causes.
DEAD: Final = "dead-jobs"
TILES: Final = (
    ("In", "enqueued", "in", "jobs enqueued a second"),
    ("Out", "ended", "out", "jobs ended a second"),
    ("Failed", "failed", "fail", "attempts failed a second"),
    ("Waiting time", "waited", "wait", "seconds from ripe to claimed"),
)


def page(ask: Ask) -> Response:
    """Return the overview."""
    watch = ask.site.histories.of(ask.database)
    snapshot = watch.snapshot()
    series = watch.series(snapshot.at)
    now = watch.rates()
    return ask.page(
        "overview.html",
        snapshot=snapshot,
        queues=lines(snapshot)[:12],
        rates={line.queue: watch.rates(line.queue) for line in lines(snapshot)[:12]},
        tiles=[tile(series, now, snapshot.at, watch.span(snapshot.at), *each) for each in TILES],
        begun_at=watch.begun_at,
        still=still(snapshot),
        examination=watch.examination,
        findings=findings(watch),
        span=watch.span(snapshot.at),
        examined_at=watch.examined_at,
        now=snapshot.at,
    )


def tile(
    series: Sequence[Rates | None],
    now: Rates | None,
    at: datetime,
    span: timedelta,
    title: str,
    field: str,
    colour: str,
    what: str,
) -> dict[str, Any]:
    """Return a tile: the value of the last minute, and the chart of the time before."""
    is_time = field == "waited"
    shown = duration if is_time else rate
    values = [getattr(each, field, None) for each in series]
    times = [at - (len(values) - 1 - n) * span / len(values) for n in range(len(values))]
    words = [f"{clock(each)}: {shown(value)}" for each, value in zip(times, values, strict=True)]
    top = charts.ceiling(values)
    return {
        "title": title, "value": shown(getattr(now, field, None)), "unit": "" if is_time else "/s",
        "chart": charts.area(values, colour, f"{title}: {what}, the last {duration(span)}", words),
        "top": shown(top) if top else "",
    }  # fmt: skip


def still(snapshot: Snapshot) -> list[Any]:
    """Return the queues that are paused or full."""
    return [place for place in snapshot.places if place.paused or place.full]


def findings(watch: Watch) -> list[Finding]:
    """Return what the doctor has found, but for what died, which another part of the page shows."""
    found = watch.examination.findings if watch.examination else ()
    return [finding for finding in found if finding.code != DEAD]
