"""Dead letters, grouped by cause."""

from __future__ import annotations

from starlette.responses import Response

from pgq.web.site import Ask


def page(ask: Ask) -> Response:
    """Return the page of why jobs have died."""
    with ask.reading() as reader:
        causes = reader.rows(
            "SELECT queue, kind, error, jobs, newest_job, newest_at, oldest_at, {p}pgq_now() AS now "
            "FROM {p}pgq_overview_deaths() ORDER BY newest_at DESC LIMIT 200"
        )
        now = reader.rows("SELECT {p}pgq_now() AS now")[0]["now"]
    total = sum(cause["jobs"] for cause in causes)
    return ask.page("dead.html", causes=causes, total=total, now=now)
