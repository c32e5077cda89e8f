"""Installation by an ordinary owner of a database, and the privileges of other roles afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import As, jobs, one
from support.paths import ROOT

from pgq import Queue, WorkerQueue


def test_an_ordinary_owner_installs_a_working_queue(as_: As) -> None:
    """The owner needs the plain file alone, and no superuser."""
    owner = as_("owner")
    owner.execute((ROOT / "build/pgq.sql").read_bytes())
    queue = WorkerQueue(owner)
    enqueued = queue.enqueue("k")
    (job,) = queue.claim()
    queue.complete(job, "done")
    assert jobs(owner) == [(enqueued.id, "done", 1)]


def test_a_producer_can_enqueue_and_do_nothing_else(as_: As) -> None:
    """Without a grant it cannot even enqueue; with one it reads no table, calls nothing else and grants nothing."""
    owner, web = as_("owner"), as_("web")
    owner.execute((ROOT / "build/pgq.sql").read_bytes())
    owner.execute("GRANT USAGE ON SCHEMA public TO web")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        Queue(web).enqueue("k")
    owner.execute("SELECT pgq_grant('web', 'producer')")
    enqueued = Queue(web).enqueue("k")
    assert enqueued.created
    assert [more.created for more in Queue(web).enqueue_many([{"kind": "k"}, {"kind": "l"}])] == [False, True]

    functions = [
        row[0]
        for row in web.execute(
            "SELECT proname FROM pg_proc WHERE proname ~ '^_?pgq_' "
            "AND has_function_privilege(oid, 'EXECUTE') ORDER BY 1"
        )
    ]
    assert functions == [
        "pgq_await", "pgq_backoff", "pgq_batch_progress", "pgq_cron_next", "pgq_enqueue", "pgq_enqueue_batch",
        "pgq_enqueue_many", "pgq_result", "pgq_signal", "pgq_signal_key", "pgq_version",
    ]  # fmt: skip
    for statement in (
        "SELECT * FROM pgq_claim()",
        "SELECT pgq_cancel(1)",
        "SELECT pgq_grant('web', 'admin')",
        *(
            f"SELECT * FROM {relation}"
            for relation in ("pgq_waiting", "pgq_running", "pgq_ended", "pgq_jobs", "pgq_stats")
        ),
        "DELETE FROM pgq_waiting",
        "SELECT nextval('pgq_job_id')",
        "CREATE OR REPLACE FUNCTION pgq_now() RETURNS timestamptz LANGUAGE sql RETURN now()",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            web.execute(statement.encode())


def test_a_failed_installation_leaves_nothing(as_: As, psql: Path, dsn: str) -> None:
    """The script is one transaction, even for a psql that goes on after errors."""
    owner = as_("owner")
    owner.execute("CREATE TABLE pgq_ended ()")
    command = [str(psql), "-X", "-q", "-f", str(ROOT / "build/pgq.sql"), make_conninfo(dsn, user="owner")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'relation "pgq_ended" already exists' in run.stderr
    assert one(owner, "SELECT count(*) FROM pg_proc WHERE proname ~ '^_?pgq_'") == 0
    assert one(owner, "SELECT count(*) FROM pg_class WHERE relname ~ '^pgq_'") == 1


def test_an_installation_without_a_schema_is_refused(as_: As) -> None:
    """No schema of the search path exists."""
    owner = as_("owner")
    owner.execute("SET search_path = nowhere")
    with pytest.raises(psycopg.errors.InvalidSchemaName, match="no schema of the search path"):
        owner.execute((ROOT / "build/pgq.sql").read_bytes())


def test_an_ordinary_owner_creates_and_drops_the_extension(as_: As, extension: Path) -> None:
    """It is in a schema of its own; DROP EXTENSION leaves nothing behind."""
    owner = as_("owner")
    owner.execute("CREATE SCHEMA jobs")
    owner.execute("CREATE EXTENSION pgq SCHEMA jobs")
    queue = WorkerQueue(owner, schema="jobs")
    queue.enqueue("k")
    (job,) = queue.claim()
    with owner.transaction():
        queue.hold(job)
        queue.complete(job)
    owner.execute("SELECT jobs.pgq_grant('web', 'producer')")
    web = as_("web")
    assert Queue(web, schema="jobs").enqueue("l").created
    web.close()

    owner.execute("DROP EXTENSION pgq")
    for catalog, column in (("pg_proc", "proname"), ("pg_class", "relname"), ("pg_type", "typname")):
        left = owner.execute(f"SELECT {column} FROM {catalog} WHERE {column} ~ '^_*pgq_'".encode()).fetchall()
        assert left == [], catalog


def test_the_script_is_ascii() -> None:
    """So it can be read in every client encoding, into a database of any encoding."""
    assert (ROOT / "build/pgq.sql").read_bytes().isascii()
