"""The batches, and how far they have got."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from pgq.web import charts
from pgq.web.site import Ask

MOST: Final = 50


def page(ask: Ask) -> Response:
    """Return the page of the newest batches."""
    before = ask.number("before")
    with ask.reading() as reader:
        # The numbers first: what has ended is counted for those that are shown only.
        ids = [
            row["id"]
            for row in reader.rows(
                "SELECT id FROM {p}pgq_batches WHERE %(before)s::bigint IS NULL OR id < %(before)s::bigint "
                "ORDER BY id DESC LIMIT %(most)s::integer",
                {"before": before, "most": MOST + 1},
            )
        ]
        shown = ids[:MOST]
        batches = reader.rows(
            "SELECT id, queue, jobs, ended, failed, failed_ids[1:5] AS failed_ids, enqueued_at FROM {p}pgq_batches "
            "WHERE id = ANY (%(ids)s::bigint[]) ORDER BY id DESC",
            {"ids": shown},
        )
        jobs = reader.rows("SELECT id, state, kind FROM {p}pgq_jobs WHERE id = ANY (%(ids)s::bigint[])", {"ids": shown})
        now = reader.rows("SELECT {p}pgq_now() AS now")[0]["now"]
    known = {job["id"]: job for job in jobs}
    return ask.page(
        "batches.html",
        batches=[shown_as(batch) | {"job": known.get(batch["id"])} for batch in batches],
        next_before=shown[-1] if len(ids) > MOST else None,
        before=before,
        now=now,
    )


def shown_as(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with its progress, drawn and in percent."""
    jobs = max(batch["jobs"], 1)
    return batch | {
        "bar": charts.bar(batch["ended"] / jobs, batch["failed"] / jobs),
        "percent": int(100 * batch["ended"] / jobs),
    }
