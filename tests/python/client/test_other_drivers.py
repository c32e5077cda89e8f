"""A job's life through the drivers of other languages, and through others of Python."""

from __future__ import annotations

import asyncio
import json
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import psycopg2
import psycopg2.extras
import pytest
from psycopg.types.json import Json
from support.database import Connection
from support.drivers import program
from support.proxy import Proxy

ENQUEUE = (
    "SELECT id FROM pgq_enqueue({}, {}::jsonb, queue => {}, ripe_at => {}, priority => {}, max_retries => {}, "
    "backoff => {}::interval, dedup => {})"
)
LATER = "SELECT id FROM pgq_enqueue({}, {}::jsonb, queue => {}, delay => make_interval(secs => {}))"
CLAIM = "SELECT id, token FROM pgq_claim({}::text[], {}, {}::interval, {})"


def check(conn: Connection) -> None:
    """Check what a life leaves behind: one job that is done in its second attempt, and one that waits."""
    jobs = conn.execute(
        "SELECT kind, state, args, priority, max_retries, attempt, backoff, dedup, result, "
        "jsonb_array_length(errors), ripe_at - enqueued_at FROM pgq_jobs WHERE queue = 'q' ORDER BY id"
    ).fetchall()
    (*done, _), (*waiting, delay) = jobs
    minute = timedelta(minutes=1)
    assert done == ["k", "done", {"to": "ann", "n": [1, 2.5]}, 3, 4, 2, 1.5 * minute, False, {"sent": True}, 1]
    assert waiting == ["later", "waiting", [1, 2.5], 5, 10, 0, minute, True, None, 0]
    assert delay == timedelta(seconds=90.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["node_postgres.mjs", "postgres_js.mjs", "Pgjdbc.java"])
def test_a_job_lives_in_a_program_of_another_language(conn: Connection, proxy: Proxy, name: str) -> None:
    """With the casts that the page shows, and no others."""
    command = [*program(name), proxy.host, str(proxy.port), conn.info.user, conn.info.dbname]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    check(conn)


def life(execute: Any, mark: Any, as_json: Any, interval: Any) -> None:
    """Enqueue, claim, extend, fail, claim and complete through ``execute``, which returns rows."""

    def call(query: str, *values: Any) -> Any:
        return execute(query.format(*(mark(n) for n in range(1, len(values) + 1))), values)

    when = datetime.now(UTC) - timedelta(minutes=1)
    call(ENQUEUE, "k", as_json({"to": "ann", "n": [1, 2.5]}), "q", when, 3, 4, interval(90), False)
    call(LATER, "later", as_json([1, 2.5]), "q", 90.5)
    ((id_, token),) = call(CLAIM, ["q"], 10, interval(300), "w")
    call("SELECT pgq_extend({}, {}, {}::interval)::text", id_, token, interval(360))
    call("SELECT pgq_fail({}, {}, {}, {}::interval)::text", id_, token, "why", interval(0))
    ((id_, token),) = call(CLAIM, ["q"], 10, interval(300), None)
    call("SELECT pgq_complete({}, {}, {}::jsonb)::text", id_, token, as_json({"sent": True}))


def test_a_job_lives_in_psycopg(conn: Connection) -> None:
    life(lambda query, values: conn.execute(query.encode(), values).fetchall(), lambda _: "%s", Json, str)
    check(conn)


def test_a_job_lives_in_psycopg2(dsn: str, conn: Connection) -> None:
    other = psycopg2.connect(dsn)
    other.autocommit = True
    cursor = other.cursor()

    def execute(query: str, values: Any) -> Any:
        cursor.execute(query, values)
        return cursor.fetchall()

    life(execute, lambda _: "%s", psycopg2.extras.Json, lambda seconds: timedelta(seconds=seconds))
    other.close()
    check(conn)


def test_a_job_lives_in_asyncpg(conn: Connection) -> None:
    info = conn.info
    with asyncio.Runner() as runner:
        other = runner.run(asyncpg.connect(host=info.host, port=info.port, user=info.user, database=info.dbname))
        life(
            lambda query, values: runner.run(other.fetch(query, *values)),
            lambda n: f"${n}",
            json.dumps,
            lambda seconds: timedelta(seconds=seconds),
        )
        runner.run(other.close())
    check(conn)
