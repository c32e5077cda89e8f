"""Uninstalling pgq: nothing is left behind, and it is refused while jobs are live."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import As, Connection, jobs, one, waits_for_lock
from support.installed import PLAIN, RELEASED, call, in_schema, released, run
from support.processes import COMMAND
from support.releases import QueueOfAny
from support.threads import Thread, eventually

from pgq import JobsRemain, LockTimeout, NotInstalled, Queue, WorkerQueue, uninstall
from pgq.schema import install as installation

CATALOGS = (
    "pg_class", "pg_proc", "pg_type", "pg_attribute", "pg_attrdef", "pg_constraint", "pg_index", "pg_rewrite",
    "pg_sequence", "pg_description", "pg_depend", "pg_shdepend", "pg_init_privs", "pg_default_acl", "pg_extension",
    "pg_namespace",
)  # fmt: skip


def rows(conn: Connection) -> dict[str, int]:
    """Return the number of rows in each catalogue."""
    return {catalog: one(conn, f"SELECT count(*) FROM {catalog}") for catalog in CATALOGS}


def put(owner: Connection, form: str) -> None:
    """Install pgq, as an extension or by the plain script of a version."""
    if form == "extension":
        owner.execute("CREATE EXTENSION pgq")
    else:
        run(owner, PLAIN if form == "plain" else released(form))


@pytest.mark.parametrize("form", ["plain", "extension", *RELEASED])
def test_uninstall_leaves_nothing_behind(as_: As, extension: Path, dsn: str, form: str) -> None:
    """This holds for each version, with grants; other objects with such names stay."""
    owner = as_("owner")
    owner.execute("CREATE TABLE pgq_mine ()")
    owner.execute("CREATE FUNCTION pgq_mine() RETURNS integer LANGUAGE sql RETURN 1")
    owner.execute("GRANT USAGE ON SCHEMA public TO web")
    before = rows(owner)
    put(owner, form)
    for role in ("producer", "worker", "admin", "reader"):
        owner.execute("SELECT pgq_grant('web', %s)", [role])
    queue = QueueOfAny(owner)
    queue.enqueue("k")
    queue.complete(queue.claim()[0], "kept")
    assert call(COMMAND, "--dsn", make_conninfo(dsn, user="owner"), "uninstall").endswith(" removed\n")
    assert rows(owner) == before


def test_the_names_of_earlier_releases_are_complete() -> None:
    """Those that the current version does not use; without them an earlier release could not be removed."""
    names = {name for release in RELEASED for name in installation.CREATED.findall(released(release).decode())}
    assert set(installation.FORMER) == names - set(installation.CREATED.findall(installation.script()))


def test_a_name_that_only_earlier_releases_used_is_free(as_: As) -> None:
    """An object with such a name, beside the current version, is not of pgq and stays."""
    owner = as_("owner")
    owner.execute("CREATE FUNCTION _pgq_limit() RETURNS integer LANGUAGE sql RETURN 1")
    before = rows(owner)
    put(owner, "plain")
    uninstall(owner)
    assert rows(owner) == before


def test_drop_extension_leaves_nothing_behind(as_: As, extension: Path) -> None:
    owner = as_("owner")
    before = rows(owner)
    put(owner, "extension")
    owner.execute("DROP EXTENSION pgq")
    assert rows(owner) == before


@pytest.mark.parametrize("form", ["plain", "extension"])
@pytest.mark.parametrize("state", ["waiting", "running"])
def test_uninstall_refuses_while_jobs_live(as_: As, extension: Path, dsn: str, form: str, state: str) -> None:
    """The hint names --force, which deletes them."""
    owner = as_("owner")
    put(owner, form)
    queue = WorkerQueue(owner)
    queue.enqueue("k")
    if state == "running":
        queue.claim()
    before = jobs(owner)
    arguments = (COMMAND, "--dsn", make_conninfo(dsn, user="owner"), "uninstall")
    refusal = call(*arguments, code=1)
    assert refusal == "pgq: 1 jobs wait or run\nhint: Let them be done, or give --force to lose them.\n"
    assert jobs(owner) == before
    call(*arguments, "--force")
    assert one(owner, "SELECT to_regclass('pgq_waiting') IS NULL")


@pytest.mark.parametrize("form", ["plain", "extension"])
def test_uninstall_drops_nothing_that_other_objects_depend_on(as_: As, extension: Path, form: str) -> None:
    """Neither a view on pgq's tables nor anything of pgq is dropped, even with force."""
    owner = as_("owner")
    put(owner, form)
    owner.execute("CREATE VIEW mine AS SELECT count(*) FROM pgq_jobs")
    before = rows(owner)
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        uninstall(owner, force=True)
    assert rows(owner) == before


def test_uninstall_removes_only_the_installation_in_its_schema(as_: As) -> None:
    """Another one stays, with its jobs; without one in the schema it raises NotInstalled."""
    owner = as_("owner")
    names = ("a", 'my "Jobs"')
    for name in names:
        with in_schema(owner, name):
            run(owner, PLAIN)
    Queue(owner, schema="a").enqueue("k")
    uninstall(owner, schema=names[1])
    assert one(owner, "SELECT count(*) FROM a.pgq_jobs") == 1
    for nowhere in (names[1], None):
        with pytest.raises(NotInstalled):
            uninstall(owner, schema=nowhere)


def test_a_job_enqueued_during_an_uninstall_is_not_lost(as_: As) -> None:
    """The uninstall waits for open transactions, and counts their jobs."""
    owner, other = as_("owner"), as_("owner")
    run(owner, PLAIN)
    other.execute("BEGIN")
    Queue(other).enqueue("k")
    thread = Thread(uninstall, owner)
    eventually(lambda: waits_for_lock(other, owner), "it waits for the producer")
    other.execute("COMMIT")
    with pytest.raises(JobsRemain):
        thread.result()
    assert one(owner, "SELECT count(*) FROM pgq_jobs") == 1


def test_uninstall_gives_up_when_the_tables_are_never_free(as_: As, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes nothing."""
    monkeypatch.setattr(installation, "PATIENCE", 0.0)
    owner, other = as_("owner"), as_("owner")
    run(owner, PLAIN)
    before = rows(owner)
    other.execute("BEGIN")
    Queue(other).enqueue("k")
    with pytest.raises(LockTimeout) as caught:
        uninstall(owner)
    assert "pg_stat_activity" in (caught.value.hint or "")
    assert rows(owner) == before
