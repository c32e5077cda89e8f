"""Tokens: a number names one claim of a job, whatever happened to the server or its clock."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import partial

import psycopg
import pytest
from postgres.server import Server
from support.database import Connect, Connection, one
from support.servers import Place
from support.threads import Thread, eventually

from pgq import Queue, WorkerQueue
from pgq.schema.install import install
from pgq.testing import testkit as load

CLAIMS = """
DO $$
DECLARE
    v_job record;
BEGIN
    FOR i IN 1..400 LOOP
        FOR v_job IN SELECT c.id, c.token FROM pgq_claim(max_jobs => 1 + i % 3) AS c LOOP
            INSERT INTO public.claimed VALUES (v_job.id, v_job.token);
            PERFORM pgq_release(v_job.id, v_job.token);
        END LOOP;
        COMMIT;
    END LOOP;
END
$$
"""


@pytest.mark.parametrize("now", ["", "2030-01-01 12:00Z"], ids=["", "stopped"])
def test_sessions_that_claim_the_same_jobs_get_different_tokens(
    conn: Connection, connect: Connect, queue: WorkerQueue, now: str
) -> None:
    """They claim at the same time, and release at once; a job's later claim has the greater token."""
    conn.execute("CREATE TABLE claimed (id bigint, token bigint, n bigint GENERATED ALWAYS AS IDENTITY)")
    queue.enqueue_many({"kind": "k", "args": n} for n in range(6))
    sessions = [connect() for _ in range(4)]
    for session in sessions:
        session.execute("SELECT set_config('pgq.now', %s, false)", [now])
        # Behind the clock, so that all sessions move the sequence.
        session.execute("SELECT setval('pgq_token', 1)")
    for thread in [Thread(session.execute, CLAIMS) for session in sessions]:
        thread.result(60)
    claimed: defaultdict[int, list[int]] = defaultdict(list)
    for job, token in conn.execute("SELECT id, token FROM claimed ORDER BY n").fetchall():
        claimed[job].append(token)
    assert sum(map(len, claimed.values())) > 400
    for tokens in claimed.values():
        assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("step", [timedelta(0), timedelta(seconds=-1), timedelta(minutes=-5)], ids=str)
def test_a_token_is_not_repeated_after_a_crash_that_undoes_claims(place: Place, step: timedelta) -> None:
    """They had not waited for the disk, as those of workers do not; the clock may have been set back as well."""
    settings = {"synchronous_commit": "off", "autovacuum": "off"}
    with Server(bindir=place.server.bindir, settings=settings) as server:
        dsn = f"host={server.host} port={server.port} user={server.user} dbname={server.dbname}"
        now = datetime.now(UTC)
        with psycopg.connect(dsn, autocommit=True) as conn:
            install(conn)
            conn.execute(load().encode())
            conn.execute("SELECT set_config('pgq.now', %s, false)", [str(now)])
            queue = WorkerQueue(conn)
            queue.enqueue("k")
            # The first claim moves the sequence, and is durable.
            queue.claim(max_jobs=0)
            queue.release(queue.claim()[0])
            conn.execute("CHECKPOINT")
            # Without its WAL writer the server writes only what must be written. It crashes when that is killed.
            writer = one(conn, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
            os.kill(writer, signal.SIGSTOP)
            given = []
            for _ in range(50):
                (job,) = queue.claim()
                given.append(job.token)
                queue.release(job)
            (job,) = queue.claim()
            given.append(job.token)
            os.kill(writer, signal.SIGKILL)
            with pytest.raises(psycopg.OperationalError):
                conn.execute("SELECT pg_sleep(60)")
        eventually(partial(accepts, dsn), "the server has recovered", 60)
        with psycopg.connect(dsn, autocommit=True) as conn:
            assert one(conn, "SELECT count(*) FROM pgq_running") == 0, "the crash has undone no claim"
            conn.execute("SELECT set_config('pgq.now', %s, false)", [str(now + step)])
            conn.execute("UPDATE pgq_waiting SET ripe_at = pgq_now()")
            for _ in range(60):
                (again,) = WorkerQueue(conn).claim()
                assert again.id == job.id
                assert again.token > max(given)
                given.append(again.token)
                WorkerQueue(conn).release(again)


def accepts(dsn: str) -> bool:
    """Return whether the server accepts connections."""
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True


def test_a_token_survives_json_and_floats(queue: Queue) -> None:
    """JavaScript has no other numbers."""
    queue.enqueue("k")
    (job,) = WorkerQueue(queue.conn).claim()
    assert int(float(job.token)) == job.token
    assert one(queue.conn, "SELECT token::double precision::bigint = token FROM pgq_running")
    assert job.token < 2**53
