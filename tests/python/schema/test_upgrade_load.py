"""Upgrades while producers and workers are busy: old and new callers work, and each job is done once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import As, Connection, jobs, one, waits_for_lock
from support.installed import PLAIN, RELEASED, VERSION, extended, path_from, put, released, run, script
from support.threads import Thread, eventually

from pgq import Handlers, LockTimeout, Worker, WorkerQueue
from pgq.schema import install as installation
from pgq.schema import upgrade as upgrading
from pgq.version import driver_version

OLD = RELEASED[0]
LONGEST = 2.0
# A change for which an upgrade must lock a table.
ALTER = "ALTER TABLE pgq_waiting ADD COLUMN probe integer;"


class Crew:
    """Producers and workers that use the SQL of the old release, each with its own connection."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self.longest = 0.0
        self.producing = self.working = True
        self._connections = [connect() for _ in range(4)]
        a, b, c, d = self._connections
        self.threads = [
            Thread(self.produce, a, 1),
            Thread(self.produce, b, 2),
            Thread(self.work, c),
            Thread(self.work, d),
        ]

    def timed(self, conn: Connection, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement, and record the time of the slowest."""
        begun = time.monotonic()
        cursor = conn.execute(query.encode(), parameters)
        rows = cursor.fetchall() if cursor.description else []
        self.longest = max(self.longest, time.monotonic() - begun)
        return rows

    def produce(self, conn: Connection, number: int) -> None:
        """Enqueue jobs, one by one and in bulk."""
        n = 0
        while self.producing:
            n += 1
            self.timed(conn, "SELECT id FROM pgq_enqueue('k', jsonb_build_array(%s::int, %s::int))", number, n)
            if n % 20 == 0:
                jobs = "(SELECT jsonb_agg(jsonb_build_object('kind', 'k', 'args', ARRAY[%s::int, %s::int, m])) "
                many = f"SELECT id FROM pgq_enqueue_many({jobs} FROM generate_series(1, 10) AS m))"
                self.timed(conn, many, number, n)

    def work(self, conn: Connection) -> None:
        """Claim jobs, and complete each in a transaction that records it; fail some of them once."""
        while self.working:
            claimed = self.timed(conn, "SELECT id, token, attempt FROM pgq_claim('{default}', 5, '1 minute', 'old')")
            for job_id, token, attempt in claimed:
                if job_id % 50 == 0 and attempt == 1:
                    self.timed(conn, "SELECT outcome FROM pgq_fail(%s::bigint, %s::bigint, 'no', '0')", job_id, token)
                    continue
                with conn.transaction():
                    self.timed(conn, "SELECT pgq_hold(%s::bigint, %s::bigint)", job_id, token)
                    self.timed(conn, "INSERT INTO done VALUES (%s::bigint, 'old')", job_id)
                    self.timed(conn, "SELECT pgq_complete(%s::bigint, %s::bigint)", job_id, token)

    def stop(self) -> None:
        """Stop the producers, then the workers when no job is left; raise what a thread has raised."""
        self.producing = False
        for thread in self.threads[:2]:
            thread.result()
        left = "SELECT (SELECT count(*) FROM pgq_waiting) + (SELECT count(*) FROM pgq_running)"
        watcher = self._connections[0]
        eventually(lambda: one(watcher, left) == 0, "all jobs are done", 30.0)
        self.working = False
        for thread in self.threads[2:]:
            thread.result()


@pytest.mark.parametrize(
    ("form", "more"),
    [("plain", None), ("extension", None), ("plain", ALTER)],
    ids=["plain", "extension", "a table in use"],
)
def test_an_upgrade_under_load_disturbs_no_caller(
    as_: As, extension: Path, dsn: str, monkeypatch: pytest.MonkeyPatch, form: str, more: str | None
) -> None:
    """No call fails or waits for long, and old and new workers together do each job once."""
    owner = as_("owner")
    if form == "plain":
        run(owner, released(OLD))
    else:
        owner.execute(f"CREATE EXTENSION pgq VERSION '{OLD}'".encode())
    owner.execute("CREATE TABLE done (id bigint, worker text)")
    monkeypatch.setattr(installation, "PAUSE", 0.2)
    tries: list[str] = []

    def count(conn: Connection, text: str) -> None:
        tries.append(text)
        installation.run(conn, text)

    monkeypatch.setattr(upgrading, "run", count)
    reader = as_("owner")
    if more is not None:
        after, text = upgrading.scripts()[OLD]
        altered = extended(text, more)
        monkeypatch.setattr(upgrading, "scripts", lambda: {OLD: (after, altered)})
        monkeypatch.setattr(upgrading, "driver_version", lambda: after)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM pgq_waiting")

    crew = Crew(lambda: as_("owner"))

    def done(worker: str = "%") -> int:
        return int(one(owner, "SELECT count(*) FROM done WHERE worker LIKE %s", worker))

    eventually(lambda: done() > 100, "some jobs are done", 30.0)
    upgrader = as_("owner")
    upgrade = Thread(lambda: list(upgrading.upgrade(upgrader)))
    if more is not None:
        eventually(lambda: len(tries) > 2, "the upgrade has been tried three times", 30.0)
        assert done() > 100
        reader.execute("COMMIT")
    assert upgrade.result()[-1] == driver_version()
    at_upgrade = done("old")

    handlers = Handlers()

    @handlers.handler("k", transaction=True)
    def work(job: Any, conn: Connection) -> None:
        conn.execute("INSERT INTO done VALUES (%s, 'new')", [job.id])

    worker = Worker(make_conninfo(dsn, user="owner"), handlers, poll=0.1, batch=5)
    new = Thread(worker.run)
    eventually(lambda: done("new") > 50 and done("old") > at_upgrade + 50, "old and new workers work", 30.0)
    crew.stop()
    worker.stop()
    new.result()

    made, total, distinct = owner.execute(
        "SELECT (SELECT last_value FROM pgq_job_id), count(*), count(DISTINCT id) FROM done"
    ).fetchall()[0]
    assert total == distinct == made
    assert crew.longest < LONGEST


def catalogue(conn: Connection) -> list[tuple[object, ...]]:
    """Return every row version of the catalogues of functions, tables, columns, privileges and extensions."""
    return conn.execute(
        "SELECT 'p', oid, xmin::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
        "UNION ALL SELECT 'c', oid, xmin::text || coalesce(relacl::text, '') FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace "
        "UNION ALL SELECT 'a', attrelid, attname FROM pg_attribute "
        "WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) "
        "UNION ALL SELECT 'e', oid, extversion FROM pg_extension ORDER BY 1, 2, 3"
    ).fetchall()


@pytest.mark.parametrize("form", ["plain", "extension"])
def test_an_interrupted_upgrade_changes_nothing(as_: As, conn: Connection, extension: Path, form: str) -> None:
    """Its backend is killed just before the commit."""
    owner = as_("owner")
    put(owner, form)
    WorkerQueue(owner).enqueue("k")
    (after, text) = upgrading.scripts()[OLD]
    hang = "SELECT pg_sleep(60);"
    statement = extended(text, hang)
    if form == "extension":
        file = extension / f"pgq--{OLD}--{after}.sql"
        file.write_text(extended(file.read_text(), hang))
        statement = f"ALTER EXTENSION pgq UPDATE TO '{after}'"
    before = catalogue(conn)
    upgrader = as_("owner")
    thread = Thread(upgrader.execute, statement.encode())
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    eventually(lambda: one(conn, asleep, upgrader.info.backend_pid), "the upgrade is about to commit")
    conn.execute("SELECT pg_terminate_backend(%s)", [upgrader.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        thread.result()
    eventually(lambda: not one(conn, asleep, upgrader.info.backend_pid), "its backend is gone")
    assert catalogue(conn) == before
    assert one(owner, "SELECT pgq_version()") == OLD
    assert [state for _, state, _ in jobs(owner)] == ["waiting"]


def test_an_upgrade_script_does_not_wait_long_for_a_lock(as_: As) -> None:
    """Otherwise the calls that queue up behind its lock request would wait, too."""
    owner, reader = as_("owner"), as_("owner")
    run(owner, released(OLD))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM pgq_waiting")
    _, text = upgrading.scripts()[OLD]
    begun = time.monotonic()
    with pytest.raises(psycopg.errors.LockNotAvailable):
        run(owner, extended(text, ALTER).encode())
    assert time.monotonic() - begun < LONGEST
    assert one(owner, "SELECT pgq_version()") == OLD


def test_concurrent_upgrades_run_once(as_: As) -> None:
    """The others find nothing to do."""
    owners = [as_("owner") for _ in range(4)]
    run(owners[0], released(OLD))
    barrier = threading.Barrier(len(owners))

    def upgrade(conn: Connection) -> list[str]:
        barrier.wait()
        return list(upgrading.upgrade(conn))

    for thread in [Thread(upgrade, conn) for conn in owners]:
        assert thread.result()[-1:] in ([], [VERSION])
    assert one(owners[0], "SELECT pgq_version()") == VERSION
    with pytest.raises(psycopg.errors.DuplicateObject):
        run(owners[0], PLAIN)


def test_an_upgrade_waits_for_a_concurrent_one(as_: As, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its patience ends it raises LockTimeout, and has changed nothing."""
    monkeypatch.setattr(installation, "PATIENCE", 0.0)
    monkeypatch.setattr(installation, "PAUSE", 0.05)
    owner, other = as_("owner"), as_("owner")
    put(owner, "plain")
    other.execute(script(OLD, path_from(OLD)[1]).replace(b"COMMIT;", b""))
    with pytest.raises(LockTimeout):
        list(upgrading.upgrade(owner))
    monkeypatch.setattr(installation, "PATIENCE", 60.0)
    thread = Thread(lambda: list(upgrading.upgrade(owner)))
    eventually(lambda: waits_for_lock(other, owner), "the second upgrade waits")
    other.execute("COMMIT")
    assert thread.result() == path_from(OLD)[1:]
