"""Upgrades: the result equals a new installation, keeps all data, and is complete or nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import As, Connection, one
from support.installed import (
    PLAIN,
    RELEASED,
    VERSION,
    call,
    detach,
    extended,
    in_schema,
    members,
    path_from,
    put,
    remembered,
    run,
    schema,
    script,
)
from support.paths import ROOT
from support.processes import COMMAND
from support.servers import Place

from pgq import NoUpgradePath, WorkerQueue
from pgq.schema import upgrade as upgrading
from pgq.schema.upgrade import upgrade
from pgq.version import driver_version

OLD = RELEASED[0]
FORMS = ("plain", "extension")


def by_psql(owner: Connection, dsn: str, psql: Path) -> None:
    """Run each plain script with psql -f."""
    path = path_from(one(owner, "SELECT pgq_version()"))
    for before, after in itertools.pairwise(path):
        file = ROOT / f"build/upgrades/{before}--{after}.sql"
        call(psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file, make_conninfo(dsn, user="owner"))


def by_statement(owner: Connection, dsn: str, psql: Path) -> None:
    """Run ALTER EXTENSION."""
    owner.execute("ALTER EXTENSION pgq UPDATE")


def by_command(owner: Connection, dsn: str, psql: Path) -> None:
    """Run the command, which handles both forms."""
    said = call(COMMAND, "--dsn", make_conninfo(dsn, user="owner"), "upgrade")
    assert said.splitlines()[-1] == f"pgq {VERSION} reached"


def by_superuser(owner: Connection, dsn: str, psql: Path) -> None:
    """Run the command as a superuser; the objects must still belong to the owner."""
    call(COMMAND, "--dsn", dsn, "upgrade")


WAYS = (
    ("plain", by_psql), ("plain", by_command), ("plain", by_superuser),
    ("extension", by_statement), ("extension", by_command), ("extension", by_superuser),
)  # fmt: skip


@pytest.mark.parametrize("release", RELEASED)
@pytest.mark.parametrize(("form", "way"), WAYS)
def test_an_upgraded_installation_equals_a_new_one(
    as_: As, place: Place, dsn: str, psql: Path, extension: Path,
    release: str, form: str, way: Callable[[Connection, str, Path], None],
) -> None:  # fmt: skip
    """Definitions, comments, owners, privileges and the parts that pg_dump saves are equal."""
    owner = as_("owner")
    found = []
    for upgraded in (False, True):
        if upgraded:
            put(owner, form, release)
            way(owner, dsn, psql)
            assert one(owner, "SELECT pgq_version()") == VERSION
        else:
            put(owner, form, VERSION) if form == "extension" else run(owner, PLAIN)
        if form == "extension":
            known = (members(owner), remembered(owner))
            assert one(owner, "SELECT extversion FROM pg_extension WHERE extname = 'pgq'") == VERSION
            detach(owner)
        else:
            known = ([], [])
        found.append((schema(place, dsn), *known))
        owner.execute("DROP SCHEMA public CASCADE")
        owner.execute("CREATE SCHEMA public")
    new, old = found
    assert old[0] == new[0]
    assert old[1:] == new[1:]


@pytest.mark.parametrize("form", FORMS)
def test_jobs_settings_and_grants_survive_an_upgrade(
    as_: As, conn: Connection, extension: Path, dsn: str, psql: Path, form: str
) -> None:
    """The jobs are in every state; the next id and token are new, and the owner's settings and grants stay."""
    owner, web = as_("owner"), as_("web")
    put(owner, form)
    queue = WorkerQueue(owner)
    owner.execute("GRANT USAGE ON SCHEMA public TO web")
    owner.execute("SELECT pgq_grant('web', 'producer')")
    owner.execute("GRANT SELECT (id, outcome) ON pgq_ended TO web")
    owner.execute("ALTER TABLE pgq_waiting SET (fillfactor = 70, autovacuum_enabled = off)")
    conn.execute(f"ALTER DATABASE {owner.info.dbname} SET pgq.jitter = 0".encode())
    queue.enqueue_many([{"kind": kind, "max_retries": 0, "dedup_key": kind} for kind in ("done", "dead", "gone")])
    for job in queue.claim(max_jobs=3, worker="w"):
        if job.kind == "done":
            queue.complete(job, {"kept": True})
        elif job.kind == "dead":
            queue.fail(job, "no such address")
        else:
            queue.complete(job)
    queue.cancel(queue.enqueue("cancelled").id)
    queue.fail(queue.claim(lease="1 hour")[0]) if queue.enqueue("failed").created else None
    queue.enqueue("running", {"n": 1.0})
    owner.execute("SELECT pgq_enqueue('later', '[1]', delay => '1 day', context => '{\"trace\": \"x\"}')")
    (running,) = queue.claim(lease="1 hour", worker="w")
    owner.execute("SELECT pgq_register('w')")
    everything = "SELECT * FROM pgq_jobs ORDER BY id"
    before = owner.execute(everything).fetchall()
    assert {row[1] for row in before} == {"done", "dead", "cancelled", "waiting", "running"}
    options = "SELECT reloptions FROM pg_class WHERE oid = 'pgq_waiting'::regclass"
    was = one(owner, options)

    by_command(owner, dsn, psql)

    after = owner.execute(everything).fetchall()
    assert [row[: len(before[0])] for row in after] == before
    assert one(owner, options) == was
    assert one(owner, "SELECT count(*) FROM pgq_workers WHERE present") == 1
    queue.complete(running, "kept")
    enqueued = WorkerQueue(web).enqueue("new")
    assert enqueued.created
    assert enqueued.id > max(row[0] for row in before)
    (new,) = queue.claim()
    assert new.token > running.token
    assert one(web, "SELECT count(outcome) FROM pgq_ended") > 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        web.execute("SELECT * FROM pgq_claim()")
    with psycopg.connect(dsn) as another:
        assert one(another, "SELECT current_setting('pgq.jitter')") == "0"


def test_objects_added_by_a_superuser_belong_to_the_owner(as_: As, conn: Connection, extension: Path) -> None:
    """A superuser's SECURITY DEFINER function would run with its rights; the path is pinned to the schema, too."""
    owner = as_("owner")
    new = (
        "CREATE FUNCTION pgq_new() RETURNS text LANGUAGE plpgsql SET search_path FROM CURRENT "
        "AS $$BEGIN RETURN current_setting('search_path'); END$$;"
    )
    (after, text) = upgrading.scripts()[OLD]
    owners = "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE proname ~ '^_?pgq_'"
    for form in FORMS:
        put(owner, form)
        conn.execute("SET search_path = public, pg_catalog")
        if form == "plain":
            run(conn, extended(text, new).encode())
        else:
            file = extension / f"pgq--{OLD}--{after}.sql"
            file.write_text(extended(file.read_text(), new))
            conn.execute(f"ALTER EXTENSION pgq UPDATE TO '{after}'".encode())
        assert one(conn, "SELECT current_user") == "postgres"
        assert conn.execute(owners).fetchall() == [("owner",)]
        assert one(conn, "SELECT pgq_new()") == "public, pg_temp"
        conn.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION owner")


def test_a_second_upgrade_has_nothing_to_do(as_: As, dsn: str) -> None:
    """The command says so; the script is refused."""
    owner = as_("owner")
    run(owner, PLAIN)
    assert list(upgrade(owner)) == []
    said = call(COMMAND, "--dsn", make_conninfo(dsn, user="owner"), "upgrade")
    assert said == f"pgq {VERSION} is up to date\n"
    *_, (before, after) = [
        (path.stem.partition("--")[0], VERSION) for path in sorted((ROOT / "build/upgrades").iterdir())
    ]
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) as caught:
        run(owner, script(before, after))
    said = f'this script upgrades pgq from {before} to {after}, but the schema "public" holds {VERSION}'
    assert caught.value.diag.message_primary == said
    assert caught.value.diag.message_hint == "There is nothing to do."


def test_the_plain_script_is_refused_for_an_extension(as_: As, extension: Path) -> None:
    """It would create objects outside the extension."""
    owner = as_("owner")
    put(owner, "extension")
    with pytest.raises(psycopg.errors.WrongObjectType) as caught:
        run(owner, script(OLD, path_from(OLD)[1]))
    assert caught.value.diag.message_primary == 'the pgq in the schema "public" is an extension'
    assert "ALTER EXTENSION pgq UPDATE" in (caught.value.diag.message_hint or "")
    assert one(owner, "SELECT pgq_version()") == OLD


def test_an_upgrade_needs_an_installation(as_: As) -> None:
    """The scripts look in the first schema of the search path, the command in all of them."""
    owner = as_("owner")
    put(owner, "plain")
    with in_schema(owner, "empty"):
        with pytest.raises(psycopg.errors.UndefinedObject) as caught:
            run(owner, script(OLD, path_from(OLD)[1]))
        assert caught.value.diag.message_primary == 'there is no pgq in the schema "empty"'
        assert "search_path" in (caught.value.diag.message_hint or "")
    owner.execute("SET search_path = empty, public")
    assert list(upgrade(owner)) == path_from(OLD)[1:]
    assert one(owner, "SELECT current_setting('search_path')") == "empty, public"


def test_an_upgrade_in_a_schema_of_any_name(as_: As) -> None:
    """The functions still find the objects in it."""
    owner = as_("owner")
    name = 'my "Jobs", and %I'
    with in_schema(owner, name):
        put(owner, "plain")
    assert list(upgrade(owner, schema=name)) == path_from(OLD)[1:]
    queue = WorkerQueue(owner, schema=name)
    queue.enqueue("k")
    queue.complete(queue.claim()[0])


def test_an_upgrade_without_a_path_says_so(as_: As, extension: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SQL is newer, no script starts from its version, or the server lacks the new files."""
    owner = as_("owner")
    put(owner, "extension")
    for file in extension.glob("pgq--*--*.sql"):
        file.rename(file.with_suffix(".hidden"))
    with pytest.raises(NoUpgradePath) as caught:
        list(upgrade(owner))
    assert "make install" in (caught.value.hint or "")
    for file in extension.glob("pgq--*.hidden"):
        file.rename(file.with_suffix(".sql"))
    monkeypatch.setattr(upgrading, "scripts", dict)
    with pytest.raises(NoUpgradePath) as caught:
        list(upgrade(owner))
    monkeypatch.setattr(upgrading, "driver_version", lambda: "0.0.9")
    with pytest.raises(NoUpgradePath) as caught:
        list(upgrade(owner))
    assert "pip install --upgrade pgq-jobs" in (caught.value.hint or "")


def test_the_version_wanted_is_that_of_the_driver() -> None:
    """The driver carries the SQL of the same version."""
    assert driver_version() == version("pgq-jobs") == VERSION
