"""pg_dump: a restored database has every job, and the queue goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import As, Connection, expire, jobs, one, record, seen
from support.installed import NOISE, OLDER, PLAIN, VERSION, call, program, run
from support.releases import CHANGELOG, QueueOfAny, is_clean_break, jobs_of_any
from support.servers import Place

from pgq import WorkerQueue
from pgq.version import parse_version

FORMS = ("plain", "extension")
Restore = Callable[[str], Callable[[str], Connection]]


@pytest.fixture
def filled(as_: As, extension: Path, request: pytest.FixtureRequest) -> Connection:
    """A database with waiting, running and ended jobs, and grants to another role."""
    owner = as_("owner")
    if request.param == "plain":
        run(owner, PLAIN)
    else:
        version = VERSION if request.param == "extension" else request.param
        owner.execute(f"CREATE EXTENSION pgq VERSION '{version}'".encode())
    owner.execute("SELECT pgq_grant('web', 'producer')")
    owner.execute("GRANT SELECT (id, outcome) ON pgq_ended TO web")
    queue = QueueOfAny(owner)
    queue.enqueue_many([{"kind": kind, "max_retries": 0, "args": {"n": 1.0}} for kind in ("done", "dead", "cancelled")])
    for job in queue.claim(max_jobs=3, worker="w"):
        if job.kind == "done":
            queue.complete(job, {"kept": True})
        elif job.kind == "dead":
            queue.fail(job, "no such address")
        else:
            queue.release(job)
            queue.cancel(job.id)
    queue.enqueue("running")
    owner.execute("SELECT pgq_register('w')")
    queue.claim(worker="w", lease="1 hour")
    if request.param in FORMS:
        queue.enqueue_many([{"kind": "packed", "args": [n]} for n in range(10)])
        owner.execute("SELECT pgq_claim_batch(worker => 'packer', lease => '1 hour')")
        assert one(owner, "SELECT count(*) FROM _pgq_packed") == 10
        owner.execute("SELECT pgq_enqueue('grouped', queue => 'set', group_key => 'g')")
        queue.configure("set", {"max_retries": 3})
        queue.pause("set", group_key="g")
    owner.execute("SELECT pgq_enqueue('later', '[1]', delay => '1 day', dedup_key => 'x', context => '{\"t\": 1}')")
    queue.enqueue("ripe")
    return owner


@pytest.fixture
def restore(conn: Connection, place: Place, dsn: str, psql: Path, tmp_path: Path) -> Iterator[Restore]:
    """
    Return a function that dumps the database of the test and restores it into a new one, both as the owner. That
    function takes the program to restore with, and returns another one, which connects to the new database as a role.
    """
    name = f"{conn.info.dbname}_restored"
    there = make_conninfo(dsn, dbname=name, user="owner")
    opened: list[Connection] = []

    def connect(role: str) -> Connection:
        opened.append(psycopg.connect(make_conninfo(there, user=role), autocommit=True))
        return opened[-1]

    def restore(way: str) -> Callable[[str], Connection]:
        pg_dump, here = program(place, "pg_dump"), make_conninfo(dsn, user="owner")
        conn.execute(f"CREATE DATABASE {name} OWNER owner TEMPLATE template0".encode())
        # A dump expects a schema of this name, and sets its owner.
        connect("postgres").execute("ALTER SCHEMA public OWNER TO owner")
        if way == "psql":
            call(psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", there, text=NOISE.sub("", call(pg_dump, here)))
        else:
            archive = tmp_path / "dump"
            call(pg_dump, "-Fc", "-f", archive, here)
            call(program(place, "pg_restore", newer=False), "--exit-on-error", "-j2", "-d", there, archive)
        return connect

    conn.execute(f"DROP DATABASE IF EXISTS {name}".encode())
    yield restore
    for connection in opened:
        connection.close()
    conn.execute(f"DROP DATABASE IF EXISTS {name}".encode())


def everything(conn: Connection) -> list[tuple[object, ...]]:
    """Return each job with all that the queue knows of it, and its signature."""
    return conn.execute(
        "SELECT j.*, w.signature, r.token FROM pgq_jobs AS j LEFT JOIN pgq_waiting AS w USING (id) "
        "LEFT JOIN _pgq_running AS r USING (id) ORDER BY id"
    ).fetchall()


@pytest.mark.parametrize("way", ["psql", "pg_restore"])
@pytest.mark.parametrize("filled", FORMS, indirect=True)
def test_a_restored_queue_goes_on(filled: Connection, restore: Restore, way: str) -> None:
    """Jobs in every state, sequences and grants are there; it still finds twins, and its ids and tokens are new."""
    before = everything(filled)
    assert {row[1] for row in before} == {"done", "dead", "cancelled", "waiting", "running"}
    connect = restore(way)
    owner, web = connect("owner"), connect("web")
    assert everything(owner) == before
    settings = b"SELECT * FROM pgq_queues ORDER BY queue"
    assert owner.execute(settings).fetchall() == filled.execute(settings).fetchall()
    for sequence in ("pgq_job_id", "pgq_token", "pgq_mark"):
        state = f"SELECT last_value, is_called FROM {sequence}".encode()
        assert owner.execute(state).fetchall() == filled.execute(state).fetchall(), sequence

    enqueued = WorkerQueue(web).enqueue("new")
    assert (enqueued.created, enqueued.id) == (True, one(filled, "SELECT last_value + 1 FROM pgq_job_id"))
    queue = WorkerQueue(owner)
    assert not queue.enqueue("ripe").created
    (job,) = queue.claim()
    assert job.kind == "ripe"
    assert job.token > one(owner, "SELECT token FROM pgq_running WHERE kind = 'running'")
    queue.complete(job)
    assert queue.claim(["set"]) == []
    queue.resume("set", group_key="g")
    assert [job.max_retries for job in queue.claim(["set"])] == [3]
    assert one(web, "SELECT count(outcome) FROM pgq_ended") == 3
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        web.execute("SELECT * FROM pgq_claim()")


@pytest.mark.parametrize("filled", FORMS, indirect=True)
def test_a_running_job_is_rescued_after_a_restore(filled: Connection, restore: Restore) -> None:
    """Its worker stayed with the old server, so the job runs again after its lease, and the attempt counts."""
    connect = restore("psql")
    owner = connect("owner")
    token = one(filled, "SELECT token FROM pgq_running")
    (before,) = (row for row in jobs(filled) if row[0] == one(filled, "SELECT id FROM pgq_running"))
    queue = WorkerQueue(owner)
    assert before[0] not in [job.id for job in queue.claim(max_jobs=10)]
    expire(owner, before[0])
    # Each session looks for expired leases once a second.
    (job,) = WorkerQueue(connect("owner")).claim()
    assert (job.id, job.attempt) == (before[0], before[2] + 1)
    with pytest.raises(psycopg.Error) as caught:
        owner.execute("SELECT pgq_complete(%s::bigint, %s::bigint)", [before[0], token])
    assert caught.value.sqlstate == "PGQ02"


@pytest.mark.parametrize("filled", FORMS, indirect=True)
def test_the_end_of_a_job_unblocks_another_one_after_a_restore(filled: Connection, restore: Restore) -> None:
    """It does so at once, and does not leave it to maintenance, which takes long for many jobs."""
    ((job_id, token),) = filled.execute("SELECT id, token FROM pgq_running").fetchall()
    last = one(filled, "SELECT id FROM pgq_enqueue('last', after => %s::bigint[])", [job_id])
    owner = restore("psql")("owner")
    WorkerQueue(owner).claim(["none"])
    owner.execute("SELECT pgq_complete(%s::bigint, %s::bigint)", [job_id, token])
    assert one(owner, "SELECT state FROM pgq_jobs WHERE id = %s", last) == "waiting"


@pytest.mark.parametrize(("filled", "kept"), [("plain", True), ("extension", False)], indirect=["filled"])
def test_triggers_do_not_fire_during_a_restore(filled: Connection, restore: Restore, kept: bool) -> None:
    """
    A trigger of the owner on the table of jobs has done its work before the dump. It exists in the new database, unless
    the table belongs to an extension: pg_dump does not save such a trigger.
    """
    record(filled, "pgq_waiting", "INSERT", "'one'")
    WorkerQueue(filled).enqueue("seen")
    assert seen(filled) == [("one",)]
    owner = restore("psql")("owner")
    assert seen(owner) == [("one",)]
    WorkerQueue(owner).enqueue("seen again")
    assert len(seen(owner)) == (2 if kept else 1)


# From the last clean break on, dumps fit into the files of later releases.
BREAK = max((version for version, _ in CHANGELOG if is_clean_break(version)), key=parse_version)


@pytest.mark.parametrize("filled", [r for r in OLDER if parse_version(r) >= parse_version(BREAK)], indirect=True)
def test_a_dump_of_an_older_release_fits_into_the_files_of_this_one(filled: Connection, restore: Restore) -> None:
    """CREATE EXTENSION names no version: the jobs of the old one come into the tables of the new."""
    before = jobs(filled)
    owner = restore("psql")("owner")
    assert one(owner, "SELECT pgq_version()") == VERSION
    assert jobs(owner) == before
    assert not WorkerQueue(owner).enqueue("ripe").created


@pytest.mark.parametrize("filled", [r for r in OLDER if parse_version(r) < parse_version(BREAK)], indirect=True)
def test_a_dump_from_before_a_clean_break_is_restored_with_its_own_files(
    filled: Connection, restore: Restore, extension: Path
) -> None:
    """They are all there: the release of the dump is made the default, and what it was restored into is upgraded."""
    before = jobs_of_any(filled)
    release = one(filled, "SELECT pgq_version()")
    control = extension / "pgq.control"
    was = control.read_text()
    control.write_text(was.replace(f"'{VERSION}'", f"'{release}'"))
    owner = restore("psql")("owner")
    control.write_text(was)
    assert one(owner, "SELECT pgq_version()") == release
    owner.execute("ALTER EXTENSION pgq UPDATE")
    assert one(owner, "SELECT pgq_version()") == VERSION
    assert jobs(owner) == before
    assert not WorkerQueue(owner).enqueue("ripe").created


@pytest.mark.parametrize("filled", ["0.2.0"], indirect=True)
def test_what_was_granted_before_an_upgrade_is_in_the_dump(
    filled: Connection, restore: Restore, as_: As, conn: Connection
) -> None:
    """What an extension's script grants would not be: pg_dump takes it for a part of the extension."""
    filled.execute("SELECT pgq_grant('web', 'worker', '{default}'), pgq_grant('web', 'reader')")
    before = jobs_of_any(filled)
    conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
    )
    as_("owner").execute("ALTER EXTENSION pgq UPDATE")
    connect = restore("psql")
    owner, web = connect("owner"), connect("web")
    assert jobs(owner) == before
    (job,) = WorkerQueue(web).claim()
    web.execute("SELECT pgq_cancel_claimed(%s::bigint, %s::bigint, 'no')", [job.id, job.token])
    assert one(web, "SELECT state FROM pgq_jobs WHERE id = %s", job.id) == "cancelled"
