"""Upgrades while producers and workers are busy: old and new callers work, and each job is done once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import As, Connection, one, waits_for_lock
from support.installed import (
    OLDER,
    PLAIN,
    VERSION,
    detach,
    extended,
    members,
    path_from,
    put,
    released,
    remembered,
    run,
    schema,
    script,
)
from support.paths import ROOT
from support.releases import jobs_of_any
from support.servers import Place
from support.threads import Thread, eventually

from pgq import Handlers, LockTimeout, Worker, WorkerQueue
from pgq.schema import install as installation
from pgq.schema import upgrade as upgrading

OLD = OLDER[0]
BEFORE = next(before for before, (after, _) in upgrading.scripts().items() if after == VERSION)
LONGEST = 2.0
# A change for which an upgrade must lock a table.
ALTER = "ALTER TABLE pgq_waiting ADD COLUMN probe integer;"
# The release after this one, as far as this file is concerned.
NEXT = "999.0.0"
COMMANDS = re.findall(r"^ +```sh\n(.*?)```$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)
# What changes in it: a column, a function that workers may call, and the bodies of functions that all callers use.
CHANGES = (
    ("20_waiting.sql", r"(\n    CONSTRAINT pgq_waiting_pkey)", r"    probe       integer,\n\1"),
    ("20_waiting.sql", r"\Z", "\nCOMMENT ON COLUMN pgq_waiting.probe IS 'New.';\n"),
    (
        "73_purge.sql",
        r"\Z",
        "\n\nCREATE FUNCTION pgq_probe() RETURNS text\n    LANGUAGE sql\n    RETURN 'new';\n\n"
        "COMMENT ON FUNCTION pgq_probe() IS\n    'New.';\n",
    ),
    ("80_grant.sql", r"ARRAY\['pgq_claim',", "ARRAY['pgq_claim', 'pgq_probe',"),
    ("90_privileges.sql", r"pgq_grant, pgq_revoke\n", "pgq_grant, pgq_revoke, pgq_probe\n"),
    ("31_enqueue.sql", r"(\$pgq_enqueue\$\n(?:#.*\n)?DECLARE\n)", r"\1    v_probe integer;\n"),
    ("43_claim.sql", r"(\$pgq_claim\$\n(?:#.*\n)?DECLARE\n)", r"\1    v_probe integer;\n"),
    ("51_hold.sql", r"(\$pgq_hold\$\n(?:#.*\n)?)(DECLARE\n|BEGIN\n)", r"\1-- New.\n\2"),
)


def commands(step: int, there: Path) -> None:
    """Run the commands of a step of a release, as CONTRIBUTING.md gives them; those of git aside."""
    lines = [line for line in COMMANDS[step].splitlines() if not line.strip().startswith("git ")]
    environ = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL")}
    environ |= {"A": BEFORE, "B": VERSION, "C": NEXT}
    subprocess.run(
        ["sh", "-eu", "-c", "\n".join(lines)], cwd=there, env=environ, check=True, capture_output=True, timeout=60
    )


@pytest.fixture(scope="module")
def next_release() -> Iterator[Path]:
    """A checkout in which this version has been released, and the next one built."""
    with tempfile.TemporaryDirectory(prefix="pgq-test-") as name:
        there = Path(name)
        shutil.copytree(ROOT / "sql", there / "sql")
        (there / "tools").mkdir()
        (there / "python/src/pgq/schema").mkdir(parents=True)
        for file in ("Makefile", "pgq.control", "LICENSE", "tools/upgrade_script.py", "tools/pg_tle.sh"):
            shutil.copy(ROOT / file, there / file)
        commands(0, there)
        for file in (f"build/upgrades/{BEFORE}--{VERSION}.sql", f"build/pgq--{BEFORE}--{VERSION}.sql", "build/pgq.sql"):
            assert (there / file).read_bytes() == (ROOT / file).read_bytes(), "a release is what was in work"
        assert "-- @" not in (there / f"sql/upgrade/pgq--{BEFORE}--{VERSION}.sql").read_text()
        commands(2, there)
        for file, pattern, replacement in CHANGES:
            path = there / "sql" / file
            text, count = re.subn(pattern, replacement, path.read_text(), count=1)
            assert count == 1, (file, pattern)
            path.write_text(text)
        written = there / f"sql/upgrade/pgq--{VERSION}--{NEXT}.sql"
        written.write_text(written.read_text().replace("-- @create", f"{ALTER}\n\n-- @create"))
        subprocess.run(["make", "-s"], cwd=there, check=True, capture_output=True, timeout=60)
        yield there


def upgrade_to_next(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the driver be that of the next release, as far as upgrades go."""
    text = (there / f"build/upgrades/{VERSION}--{NEXT}.sql").read_text()
    monkeypatch.setattr(upgrading, "scripts", lambda: {VERSION: (NEXT, text)})
    monkeypatch.setattr(upgrading, "driver_version", lambda: NEXT)


def install(owner: Connection, form: str) -> None:
    """Install this version."""
    put(owner, form, VERSION) if form == "extension" else run(owner, PLAIN)


@pytest.mark.parametrize("form", ["plain", "extension"])
def test_a_later_upgrade_is_generated_whole(
    as_: As, place: Place, dsn: str, extension: Path, next_release: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """What it leads to is a new installation; it drops nothing, and workers may call what is new."""
    owner = as_("owner")
    script = next_release / f"build/complete/pgq--{VERSION}--{NEXT}.sql"
    assert "\nDROP " not in script.read_text()
    assert set(re.findall(r"^CREATE OR REPLACE FUNCTION (\w+)", script.read_text(), re.MULTILINE)) == {
        "pgq_enqueue", "pgq_claim", "pgq_hold", "_pgq_granted_functions",
    }  # fmt: skip
    for file in next_release.glob(f"build/pgq--*{NEXT}.sql"):
        (extension / file.name).write_bytes(file.read_bytes())
    found = []
    for new in (True, False):
        if new and form == "extension":
            owner.execute(f"CREATE EXTENSION pgq VERSION '{NEXT}'".encode())
        elif new:
            run(owner, (next_release / "build/pgq.sql").read_bytes())
        else:
            install(owner, form)
        owner.execute("SELECT pgq_grant('web', 'worker')")
        if not new:
            upgrade_to_next(next_release, monkeypatch)
            assert upgrading.upgrade(owner) == [NEXT]
        assert one(as_("web"), "SELECT pgq_probe()") == "new"
        if form == "extension":
            known = (members(owner), remembered(owner))
            detach(owner)
        else:
            known = ([], [])
        objects = {name: sorted(body.splitlines()) for name, body in schema(place, dsn).items()}
        found.append((objects, *known))
        owner.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    for file in extension.glob(f"pgq--*{NEXT}.sql"):
        file.unlink()
    assert found[0] == found[1]


class Crew:
    """
    Producers and workers that know nothing but the SQL of the old release, each with a connection of its own.

    Producers make a call again after errors of the SQLSTATE classes in ``expected``, and workers also after XX; any
    other error ends the crew.
    """

    def __init__(self, connect: Callable[[], Connection], expected: tuple[str, ...] = ()) -> None:
        self.longest = 0.0
        self.expected = expected
        self.made: list[int] = []
        self.producing = self.working = True
        self._connections = [connect() for _ in range(4)]
        a, b, c, d = self._connections
        self.threads = [
            Thread(self.again, self.produce, a, 1),
            Thread(self.again, self.produce, b, 2),
            Thread(self.again, self.work, c),
            Thread(self.again, self.work, d),
        ]

    def timed(self, conn: Connection, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement, and record the time of the slowest."""
        begun = time.monotonic()
        cursor = conn.execute(query.encode(), parameters)
        rows = cursor.fetchall() if cursor.description else []
        self.longest = max(self.longest, time.monotonic() - begun)
        return rows

    def again(self, loop: Callable[..., None], *arguments: Any) -> None:
        """Run a loop until it ends, through the errors that are expected."""
        while True:
            try:
                loop(*arguments)
                return
            except psycopg.Error as error:
                if error.sqlstate is None or error.sqlstate[:2] not in self.expected:
                    raise

    def produce(self, conn: Connection, number: int) -> None:
        """Enqueue jobs, one by one and in bulk."""
        n = 0
        while self.producing:
            n += 1
            enqueue = "SELECT id FROM pgq_enqueue('k', jsonb_build_array(%s::int, %s::int), dedup => false)"
            self.made += [row[0] for row in self.timed(conn, enqueue, number, n)]
            if n % 20 == 0:
                job = "jsonb_build_object('kind', 'k', 'args', ARRAY[%s::int, %s::int, m], 'dedup', false)"
                jobs = f"(SELECT jsonb_agg({job}) FROM generate_series(1, 10) AS m)"
                many = f"SELECT id FROM pgq_enqueue_many({jobs})"
                self.made += [row[0] for row in self.timed(conn, many, number, n)]

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
        """
        Stop the producers, then the workers when no job is left; raise what a thread has raised.

        A worker that has met an expected error leaves its jobs to their leases of a minute.
        """
        self.producing = False
        for thread in self.threads[:2]:
            thread.result()
        left = "SELECT (SELECT count(*) FROM pgq_waiting) + (SELECT count(*) FROM pgq_running)"
        watcher = self._connections[0]
        eventually(lambda: one(watcher, left) == 0, "all jobs are done", 150.0)
        self.working = False
        for thread in self.threads[2:]:
            thread.result()


@pytest.mark.parametrize(
    ("form", "read"),
    [("plain", False), ("extension", False), ("plain", True)],
    ids=["plain", "extension", "a table that is read in a long transaction"],
)
def test_an_upgrade_under_load(
    as_: As,
    extension: Path,
    dsn: str,
    next_release: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    read: bool,
) -> None:
    """From this version to the next: no call fails or waits for long; old and new workers do each job once."""
    owner = as_("owner")
    install(owner, form)
    file = f"pgq--{VERSION}--{NEXT}.sql"
    (extension / file).write_bytes((next_release / "build" / file).read_bytes())
    owner.execute("CREATE TABLE done (id bigint, worker text)")
    monkeypatch.setattr(installation, "PAUSE", 0.2)
    tries: list[str] = []

    def count(conn: Connection, text: str) -> None:
        tries.append(text)
        installation.run(conn, text)

    monkeypatch.setattr(upgrading, "run", count)
    upgrade_to_next(next_release, monkeypatch)
    reader = as_("owner")
    if read:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM pgq_waiting")

    crew = Crew(lambda: as_("owner"))

    def done(worker: str = "%") -> int:
        return int(one(owner, "SELECT count(*) FROM done WHERE worker LIKE %s", worker))

    eventually(lambda: done() > 100, "some jobs are done", 30.0)
    upgrader = as_("owner")
    upgrade = Thread(lambda: upgrading.upgrade(upgrader))
    if read:
        eventually(lambda: len(tries) > 2, "it has been tried three times", 30.0)
        assert done() > 100
        reader.execute("COMMIT")
    assert upgrade.result() == [NEXT]
    (extension / file).unlink()
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


@pytest.mark.parametrize("form", ["plain", "extension"])
def test_callers_from_before_a_clean_break_get_errors_and_lose_no_job(
    as_: As, extension: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """
    Producers and workers of 0.2.0 that were not stopped: a call succeeds, or fails because what it names is not there
    (SQLSTATE class 42), as any transaction may (class 40), or with XX000, where it is under way when its function or
    the type of a variable is dropped. Each job that was enqueued is done once.
    """
    owner = as_("owner")
    put(owner, form, "0.2.0")
    owner.execute("CREATE TABLE done (id bigint, worker text)")
    monkeypatch.setattr(installation, "PAUSE", 0.2)
    crew = Crew(lambda: as_("owner"), expected=("42", "40", "XX"))
    count = "SELECT count(*) FROM done"
    eventually(lambda: one(owner, count) > 100, "some work is done", 30.0)
    assert upgrading.upgrade(as_("owner")) == path_from("0.2.0")[1:]
    there = one(owner, count)
    eventually(lambda: one(owner, count) > there + 50, "the calls that kept their names go on", 30.0)
    crew.stop()
    total, distinct = owner.execute("SELECT count(*), count(DISTINCT id) FROM done").fetchall()[0]
    assert total == distinct == len(crew.made)
    assert {row[0] for row in owner.execute("SELECT id FROM done").fetchall()} == set(crew.made)
    for call in ("pgq_discard(1::bigint, 1::bigint)", "pgq_disown('w', '{}')", "pgq_pending()"):
        with pytest.raises(psycopg.errors.UndefinedFunction):
            owner.execute(f"SELECT {call}".encode())
    with pytest.raises(psycopg.errors.UndefinedTable):
        owner.execute("SELECT * FROM pgq_job")


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


@pytest.mark.parametrize("ended", ["pg_terminate_backend", "pg_cancel_backend"])
@pytest.mark.parametrize("release", OLDER)
@pytest.mark.parametrize("form", ["plain", "extension"])
def test_an_interrupted_upgrade_changes_nothing(
    as_: As, conn: Connection, extension: Path, form: str, release: str, ended: str
) -> None:
    """Its backend is killed, or its statement cancelled, when all but the commit is done."""
    owner = as_("owner")
    put(owner, form, release)
    WorkerQueue(owner).enqueue("k")
    owner.execute("SELECT pgq_grant('web', 'worker')")
    (after, text) = upgrading.scripts()[release]
    hang = "SELECT pg_sleep(60);"
    statement = extended(text, hang)
    if form == "extension":
        file = extension / f"pgq--{release}--{after}.sql"
        file.write_text(extended(file.read_text(), hang))
        statement = f"ALTER EXTENSION pgq UPDATE TO '{after}'"
    before = catalogue(conn)
    upgrader = as_("owner")
    thread = Thread(upgrader.execute, statement.encode())
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    pid = upgrader.info.backend_pid
    eventually(lambda: one(conn, asleep, pid), "the upgrade is done but for its commit")
    conn.execute(f"SELECT {ended}(%s)".encode(), [pid])
    with pytest.raises(psycopg.OperationalError):
        thread.result()
    upgrader.close()
    eventually(lambda: not one(conn, asleep, pid), "its backend is gone")
    assert catalogue(conn) == before
    assert one(owner, "SELECT pgq_version()") == release
    assert [state for _, state, _ in jobs_of_any(owner)] == ["waiting"]


@pytest.mark.parametrize(
    "table", ["pgq_waiting", "pgq_running", "pgq_ended", "pgq_permission", "pgq_worker", "pgq_head"]
)
def test_a_table_in_use_stops_the_clean_break(as_: As, conn: Connection, table: str) -> None:
    """Whichever table it is: the upgrade gives up within its half second, and changes nothing."""
    owner, reader = as_("owner"), as_("owner")
    put(owner, "plain", "0.2.0")
    before = catalogue(conn)
    reader.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS SHARE MODE".encode())
    begun = time.monotonic()
    with pytest.raises(psycopg.errors.LockNotAvailable):
        run(owner, script("0.2.0", "0.3.0"))
    assert time.monotonic() - begun < LONGEST
    assert catalogue(conn) == before


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
        return upgrading.upgrade(conn)

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
        upgrading.upgrade(owner)
    monkeypatch.setattr(installation, "PATIENCE", 60.0)
    thread = Thread(lambda: upgrading.upgrade(owner))
    eventually(lambda: waits_for_lock(other, owner), "the second upgrade waits")
    other.execute("COMMIT")
    assert thread.result() == path_from(OLD)[1:]
