"""
Fetch the pages of a site one after the other, and sleep between them: `pgq worker crawler`.

    pgq enqueue crawl '{"pages": ["http://localhost:8000/a", "http://localhost:8000/b"], "pause": 5}'

While a crawl sleeps, its worker runs other jobs. A page is fetched again only if the worker was lost before its row was
committed.

    CREATE TABLE page (url text, size integer);
"""

from __future__ import annotations

import urllib.request
from datetime import timedelta
from typing import Any

import psycopg

import pgq


@pgq.handler("crawl", transaction=True)
def crawl(job: pgq.Job, conn: psycopg.Connection[Any]) -> int:
    """Fetch all pages; return how many bytes they have."""
    pages: list[str] = job.args["pages"]
    total = 0
    for n, url in enumerate(pages):
        if n > 0:
            job.sleep(timedelta(seconds=job.args["pause"]))
        total += job.step(f"page {n}", fetch, job, conn, url)
        job.progress((n + 1) / len(pages), url)
    return total


def fetch(job: pgq.Job, conn: psycopg.Connection[Any], url: str) -> int:
    """Fetch a page, and note its size."""
    request = urllib.request.Request(url, headers={"Idempotency-Key": job.step_key})
    with urllib.request.urlopen(request, timeout=10) as response:
        size = len(response.read())
    conn.execute("INSERT INTO page (url, size) VALUES (%s, %s)", [url, size])
    return size
