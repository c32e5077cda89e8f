"""The list of jobs: filters, search, and pages by number."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from pgq.views import FIRST_LINE
from pgq.web.database import Reader
from pgq.web.show import STATES
from pgq.web.site import Ask

MOST: Final = 50
LISTED: Final = (
    "id, state, queue, kind, priority, ripe_at, attempt, max_retries, enqueued_at, worker, claimed_at, ended_at, "
    "waits_for_signal, cancel_requested_at"
)


def page(ask: Ask) -> Response:
    """Return the page of the newest jobs that match."""
    state = ask.get("state")
    search, kind, queue, before = ask.get("search"), ask.get("kind"), ask.get("queue"), ask.number("before")
    with ask.reading() as reader:
        found = reader.row(
            "SELECT ids, next_before, {p}pgq_now() AS now FROM {p}pgq_find_jobs(%(state)s::text, %(queue)s::text, "
            "%(kind)s::text, %(search)s::text, %(before)s::bigint, %(most)s::bigint)",
            {
                "state": state if state in STATES else None, "queue": queue, "kind": kind, "search": search,
                "before": before, "most": MOST,
            },
        )  # fmt: skip
        assert found is not None
        rows = listed(reader, found["ids"])
    return ask.page(
        "jobs.html",
        jobs=rows,
        now=found["now"],
        filters={"state": state, "queue": queue, "kind": kind, "search": search},
        before=before,
        next_before=found["next_before"],
        # A full page has more behind it; a page that is not full was given up.
        gave_up=found["next_before"] is not None and len(found["ids"]) < MOST,
    )


def listed(reader: Reader, ids: list[int]) -> list[dict[str, Any]]:
    """Return these jobs, the newest first, each with the first line of its newest error where the role may read it."""
    error = "NULL::text AS error"
    if reader.may_read("pgq_jobs", "errors"):
        error = f"CASE WHEN NOT sensitive THEN {FIRST_LINE} END AS error"
    return reader.rows(
        f"SELECT {LISTED}, {error} FROM {{p}}pgq_jobs WHERE id = ANY (%(ids)s::bigint[]) ORDER BY id DESC", {"ids": ids}
    )
