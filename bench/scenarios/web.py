"""The pages of pgq web among millions of jobs, without and under a held snapshot: the time of the server for each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from contenders import by_name
from databases import connect, fresh, held_snapshot, value
from harness import BenchError, Harness

NAME = "web"
ALONE, HELD = "no snapshot held", "snapshot held"
# Of ten jobs seven wait, one is done and kept, and two are dead; there are twenty queues.
WAITING = """
    INSERT INTO pgq_waiting (id, queue, kind, args, priority, ripe_at, attempt, dedup, enqueued_at)
    SELECT nextval('pgq_job_id'), 'q' || n %% 20, 'kind' || n %% 7, jsonb_build_object('n', n), 5,
           now() + (n %% 100 - 90) * interval '1 minute', 0, false, now()
    FROM generate_series(1, %s::bigint) AS n
"""
ENDED = """
    INSERT INTO pgq_ended (id, queue, kind, args, priority, ripe_at, attempt, max_retries, dedup, enqueued_at, outcome,
        ended_at, newest_error)
    SELECT nextval('pgq_job_id'), 'q' || n %% 20, 'kind' || n %% 7, jsonb_build_object('n', n), 5, now(), 1, 0, false,
           now(), CASE n %% 3 WHEN 0 THEN 'done' ELSE 'dead' END, now() - (n %% 100000) * interval '1 second',
           CASE n %% 3 WHEN 0 THEN NULL ELSE 1 END
    FROM generate_series(1, %s::bigint) AS n
"""
ERRORS = """
    INSERT INTO pgq_error (id, number, attempt, at, error)
    SELECT id, 1, 1, ended_at, format('Error: cause %s', id % 5) FROM pgq_ended WHERE newest_error IS NOT NULL
"""
WORK = """
    WITH c AS MATERIALIZED (SELECT ids, token FROM pgq_claim_batch(%s::text[], 500)),
    j AS MATERIALIZED (SELECT unnest(c.ids) AS id, c.token FROM c)
    SELECT count(*) FROM pgq_complete_many(ARRAY(SELECT id FROM j), ARRAY(SELECT token FROM j))
"""
# The last search finds nothing, and so looks at as many jobs as its time lets it.
PAGES = (
    "/", "/queues", "/queues/settings?queue=q1", "/jobs", "/jobs?state=dead", "/jobs?state=waiting&queue=q7&kind=kind3",
    "/jobs?state=blocked", "/jobs?search=no+such+text", "/dead", "/batches", "/schedules", "/workers",
)  # fmt: skip
ROUNDS = 5
MIX = 10


def run(harness: Harness) -> None:
    jobs = harness.pick(5_000_000, 500_000)
    with fresh(by_name("pgq")) as database:
        fill(database, jobs)
        record(harness, database, ALONE)
        with held_snapshot(database):
            work(database, harness.pick(200_000, 20_000))
            record(harness, database, HELD)


def fill(database: str, jobs: int) -> None:
    """Insert the jobs, the ended ones last."""
    with connect(database) as conn:
        conn.execute(WAITING, [jobs * 7 // MIX])
        conn.execute(ENDED, [jobs * 3 // MIX])
        conn.execute(ERRORS)
        conn.execute("VACUUM ANALYZE")
        conn.execute("CHECKPOINT")


def work(database: str, jobs: int) -> None:
    """Claim and complete jobs as the worker in Python does, packed; their dead rows stay."""
    with connect(database) as conn:
        conn.execute("SET synchronous_commit = off")
        done = 0
        while done < jobs:
            done += value(conn, WORK, [[f"q{n}" for n in range(20)]])


def record(harness: Harness, database: str, contender: str) -> None:
    """Record the milliseconds of each page, the first one apart: it opens the connection."""
    get = client(database)
    get("/jobs")
    slowest = 0.0
    for page in PAGES:
        times = [timed(get, page) for _ in range(ROUNDS)]
        harness.record(NAME, f"page {page}", contender, "ms", times)
        slowest = max(slowest, min(times))
    harness.record(NAME, "slowest page", contender, "ms", [slowest])


def timed(get: Callable[[str], int], page: str) -> float:
    """Return the milliseconds of a page."""
    began = time.perf_counter()
    if get(page) != 200:
        raise BenchError(f"{page} has failed")
    return 1000 * (time.perf_counter() - began)


def client(database: str) -> Callable[[str], int]:
    """Return a function that asks the application for a page, and returns the status."""
    import pgq.web  # noqa: PLC0415 - an extra

    application = pgq.web.app(f"dbname={database}")

    async def ask(path: str, query: str) -> int:
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        scope = {
            "type": "http", "method": "GET", "scheme": "http", "path": path, "query_string": query.encode(),
            "root_path": "", "headers": [(b"host", b"localhost")], "http_version": "1.1", "server": ("localhost", 80),
        }  # fmt: skip
        await application(scope, receive, send)
        return status

    return lambda page: asyncio.run(ask(*(page.partition("?")[::2])))
