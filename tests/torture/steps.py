"""
Workflows in the torture run: jobs of three steps, each of which is made once in all attempts of a job.

A step is a row that is written in the transaction that saves it. A flow is what a job and its twins have saved: when a
job merges, its twin takes over what it has saved, or keeps its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import psycopg

import pgq

STEPS = ("first", "second", "third")
# Between two steps a worker may be killed or frozen.
PAUSE = 0.01

TABLES = """
CREATE TABLE torture.step (flow bigint, step text, job bigint, token bigint);
CREATE TABLE torture.finished (flow bigint, job bigint);
"""

DOUBLED = """
SELECT format('step %s of flow %s was made by jobs %s', step, flow, array_agg(job))
FROM torture.step
GROUP BY flow, step
HAVING count(*) > 1
"""
SKIPPED = """
SELECT format('job %%s of flow %%s is finished without step %%s', f.job, f.flow, name)
FROM torture.finished AS f, unnest(%(steps)s::text[]) AS name
WHERE NOT EXISTS (SELECT FROM torture.step AS s WHERE s.flow = f.flow AND s.step = name)
"""


def run(job: pgq.Job, conn: psycopg.Connection[Any], work: Callable[[], None]) -> None:
    """Make the steps that no earlier attempt has made, and do the work before the last of them."""
    saved: dict[str, Any] = {"flow": job.id, "steps": []} if job.saved is None else json.loads(job.saved)
    for name in STEPS:
        if name == STEPS[-1]:
            work()
        if name not in saved["steps"]:
            saved["steps"].append(name)
            make(job, conn, name, saved)
        time.sleep(PAUSE)
    conn.execute("INSERT INTO torture.finished VALUES (%s, %s)", [saved["flow"], job.id])


def make(job: pgq.Job, conn: psycopg.Connection[Any], step: str, saved: dict[str, Any]) -> None:
    """Make a step."""
    with conn.transaction():
        conn.execute(
            "INSERT INTO torture.step VALUES (%s, %s, %s, %s)",
            [saved["flow"], step, job.id, job.token],
        )
        conn.execute("SELECT pgq_save(%s, %s, %s::jsonb)", [job.id, job.token, json.dumps(saved)])


def doubled(conn: psycopg.Connection[Any]) -> list[str]:
    """Return the steps that were made more than once."""
    return [row[0] for row in conn.execute(DOUBLED).fetchall()]


def skipped(conn: psycopg.Connection[Any]) -> list[str]:
    """Return the steps that were not made by a flow that is finished."""
    return [row[0] for row in conn.execute(SKIPPED, {"steps": list(STEPS)}).fetchall()]


def count(conn: psycopg.Connection[Any]) -> int:
    """Return how many steps were made."""
    (number,) = conn.execute("SELECT count(*) FROM torture.step").fetchone() or (0,)
    return int(number)
