"""Loaded by the workers of a broken build: a step is saved before, not with, its write."""

from __future__ import annotations

import json
import time
from typing import Any

import psycopg

import pgq
from torture import steps


def _make(job: pgq.Job, conn: psycopg.Connection[Any], step: str, saved: dict[str, Any]) -> None:
    conn.execute("SELECT pgq_save(%s, %s, %s::jsonb)", [job.id, job.token, json.dumps(saved)])
    time.sleep(steps.PAUSE)
    conn.execute(
        "INSERT INTO torture.step VALUES (%s, %s, %s, %s)",
        [saved["flow"], step, job.id, job.token],
    )


steps.make = _make
