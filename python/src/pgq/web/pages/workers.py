"""The workers, and what they run."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from pgq.web.site import Ask

MOST: Final = 200
# Of the jobs that run.
RUNNING: Final = 500


def page(ask: Ask) -> Response:
    """Return the page of the workers that are registered or hold jobs."""
    with ask.reading() as reader:
        workers = reader.rows("SELECT * FROM {p}pgq_workers ORDER BY running DESC, name LIMIT %(most)s", {"most": MOST})
        found = reader.rows(
            "SELECT ids, next_before, {p}pgq_now() AS now "
            "FROM {p}pgq_find_jobs('running', max_jobs => %(most)s::bigint)",
            {"most": RUNNING},
        )[0]
        jobs = reader.rows(
            "SELECT id, kind, queue, worker, claimed_at, lease_until, attempt FROM {p}pgq_jobs "
            "WHERE id = ANY (%(ids)s::bigint[]) AND state = 'running' ORDER BY claimed_at",
            {"ids": found["ids"]},
        )
    held: dict[str | None, list[dict[str, Any]]] = {}
    for job in jobs:
        held.setdefault(job["worker"], []).append(job)
    return ask.page(
        "workers.html", workers=workers, held=held, now=found["now"], is_cut=len(workers) == MOST, most=RUNNING,
        is_short=found["next_before"] is not None,
    )  # fmt: skip
