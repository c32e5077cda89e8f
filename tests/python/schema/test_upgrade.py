"""Upgrades: the result equals a new installation, keeps all data, and is complete or nothing."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import As, Connection, one
from support.errors import astray
from support.installed import (
    OLDER,
    PLAIN,
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
from support.releases import QueueOfAny
from support.servers import Place
from support.signatures import missigned
from support.threads import Thread, eventually

from pgq import NoUpgradePath, Views, WorkerQueue
from pgq.schema import upgrade as upgrading
from pgq.schema.upgrade import steps_left, upgrade
from pgq.version import driver_version

OLD = OLDER[0]
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


@pytest.mark.parametrize("release", OLDER)
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


@pytest.mark.parametrize("release", OLDER)
def test_the_steps_that_are_left_are_counted(as_: As, release: str) -> None:
    """For the bar of the command."""
    owner = as_("owner")
    put(owner, "plain", release)
    assert steps_left(owner) == len(path_from(release)) - 1
    upgrade(owner)
    assert steps_left(owner) == 0


JOBS = "SELECT * FROM {} ORDER BY id"
CLAIMS = "SELECT id, token, lease_until, claimed_at, worker FROM pgq_running ORDER BY id"
SEQUENCES = (
    "SELECT last_value, is_called FROM pgq_job_id UNION ALL SELECT last_value, is_called FROM pgq_token "
    "UNION ALL SELECT last_value, is_called FROM {}_number"
)
OPTIONS = "SELECT reloptions FROM pg_class WHERE oid = 'pgq_waiting'::regclass"
SESSIONS = "SELECT name, number, queues, host, pid, registered_at, gone_at FROM {}"
SIGNATURES = "SELECT id, signature FROM pgq_waiting ORDER BY id"


@pytest.mark.parametrize("release", OLDER)
@pytest.mark.parametrize("form", FORMS)
def test_jobs_settings_and_grants_survive(
    as_: As, conn: Connection, extension: Path, dsn: str, psql: Path, form: str, release: str
) -> None:
    """The jobs are in every state; the next id and token are new, and the owner's settings and grants stay."""
    owner, web = as_("owner"), as_("web")
    put(owner, form, release)
    queue = QueueOfAny(owner)
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
    owner.execute("SELECT pgq_enqueue('failed', max_retries => 20)")
    for n in range(12):
        queue.fail(queue.claim(worker="w")[0], f"failure {n}", retry_in="0 s")
    owner.execute("UPDATE pgq_waiting SET ripe_at = ripe_at + interval '1 day' WHERE kind = 'failed'")
    queue.enqueue("running", {"n": 1.0})
    owner.execute("SELECT pgq_enqueue('later', '[1]', delay => '1 day', context => '{\"trace\": \"x\"}')")
    (running,) = queue.claim(lease="1 hour", worker="w")
    with psycopg.connect(make_conninfo(dsn, user="owner"), autocommit=True) as worker:
        worker.execute("SELECT pgq_register('w', host => 'there', pid => 7)")
    before = owner.execute(JOBS.format("pgq_job").encode()).fetchall()
    assert {row[1] for row in before} == {"done", "dead", "cancelled", "waiting", "running"}
    kept = [
        owner.execute(query.format("pgq_worker").encode()).fetchall()
        for query in (OPTIONS, CLAIMS, SEQUENCES, SESSIONS, SIGNATURES)
    ]

    by_command(owner, dsn, psql)

    after = owner.execute(JOBS.format("pgq_jobs").encode()).fetchall()
    assert [row[: len(before[0])] for row in after] == before
    assert astray(owner) == []
    assert kept == [
        owner.execute(query.format("pgq_worker_session").encode()).fetchall()
        for query in (OPTIONS, CLAIMS, SEQUENCES, SESSIONS, SIGNATURES)
    ]
    assert not queue.enqueue("later", [1]).created
    queue.complete(running, "kept")
    enqueued = WorkerQueue(web).enqueue("new")
    assert enqueued.created
    assert enqueued.id > max(row[0] for row in before)
    (new,) = queue.claim()
    # The tokens of before have 61 bits.
    assert new.token < 2**53 < running.token
    owner.execute("UPDATE pgq_waiting SET ripe_at = now() WHERE kind = 'failed'")
    (failing,) = queue.claim()
    queue.fail(failing, "failure 12")
    assert [error["error"] for error in Views(owner).job(failing.id)["errors"]] == [
        f"failure {n}" for n in range(12, 2, -1)
    ]
    assert astray(owner) == []
    assert one(web, "SELECT count(outcome) FROM pgq_ended") > 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        web.execute("SELECT * FROM pgq_claim()")
    with psycopg.connect(dsn) as another:
        assert one(another, "SELECT current_setting('pgq.jitter')") == "0"


# Rows that differ in what makes twins: NULLs, what looks alike, what is long, and what has another form as text.
SIGNED = r"""
FROM unnest(ARRAY['default', '', 'a', 'k', 'ü', repeat('q', 200), E'a\tb', '{}', NULL]) WITH ORDINALITY AS q (queue, n)
CROSS JOIN unnest(ARRAY['a', '', 'kind', 'k''\', repeat('ü', 100), NULL]) WITH ORDINALITY AS k (kind, n)
CROSS JOIN unnest(ARRAY['{}', 'null', '[]', '1', '1.0', '-0', '1e1000', '1e-20', '"a"', '"1"', '"\u0001ü\\"', 'true',
                        '{"b":[1, 2.50,{"c":null}],"a":1}', to_jsonb(repeat('x', 100000)), NULL]) WITH ORDINALITY
    AS a (args, n)
CROSS JOIN unnest(ARRAY[NULL, '', '{}', 'a', 'a{}', repeat('ü', 500)]) WITH ORDINALITY AS d (dedup_key, n)
"""
SIGN = f"SELECT _pgq_signature(queue, kind, args, dedup_key) {SIGNED} ORDER BY q.n, k.n, a.n, d.n"
STORE = f"""
INSERT INTO pgq_waiting (queue, kind, args, priority, ripe_at, attempt, max_retries, backoff, backoff_cap, dedup,
    dedup_key, enqueued_at, errors)
SELECT queue, kind, args, 5, now(), 0, 0, '1 s', '1 s', true, dedup_key, now(), '[]' {SIGNED}
WHERE num_nulls(queue, kind, args) = 0
ON CONFLICT DO NOTHING
"""


@pytest.mark.parametrize("release", OLDER)
def test_signatures_stay(as_: As, dsn: str, psql: Path, release: str) -> None:
    """The function returns what that of each release returned, and the column keeps what that stored."""
    owner = as_("owner")
    put(owner, "plain", release)
    before = owner.execute(SIGN.encode()).fetchall()
    stored = owner.execute(STORE.encode()).rowcount
    assert stored > 700

    by_command(owner, dsn, psql)

    assert owner.execute(SIGN.encode()).fetchall() == before
    assert len(set(before)) > 700
    assert one(owner, "SELECT count(*) FROM pgq_waiting") == stored
    assert missigned(owner) == []


ROLES = ("t_producer", "t_worker", "t_admin", "t_reader")
PRIVILEGES = """
SELECT p.proname::text, a.grantee::regrole::text, a.privilege_type, a.is_grantable
FROM pg_proc AS p CROSS JOIN LATERAL aclexplode(p.proacl) AS a
WHERE p.pronamespace = 'public'::regnamespace AND a.grantee <> p.proowner
UNION ALL
SELECT c.relname::text || coalesce('.' || a.attname, ''), a.grantee::regrole::text, a.privilege_type, a.is_grantable
FROM pg_class AS c
CROSS JOIN LATERAL (
    SELECT NULL::name AS attname, e.* FROM aclexplode(c.relacl) AS e
    UNION ALL
    SELECT t.attname, e.* FROM pg_attribute AS t CROSS JOIN LATERAL aclexplode(t.attacl) AS e WHERE t.attrelid = c.oid
) AS a
WHERE c.relnamespace = 'public'::regnamespace AND a.grantee <> c.relowner
ORDER BY 1, 2, 3
"""
PERMISSIONS = "SELECT p.privilege, p.role::text, p.queues FROM pgq_permission AS p ORDER BY 1, 2"


@pytest.fixture
def grantees(conn: Connection, as_: As) -> Iterator[None]:
    """A role for each privilege, in all queues and in some, and a role that has lost its privilege."""
    names = [*ROLES, *(f"{role}_some" for role in ROLES), "t_lost", "t_by_hand"]
    for name in names:
        conn.execute(f"DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN".encode())
    yield
    for name in names:
        conn.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


def grant(owner: Connection, *, queues: bool) -> None:
    """Give each role its privilege; without queues as in 0.1.0, which knows none."""
    for role in ROLES:
        owner.execute("SELECT pgq_grant(%s, %s)", [role, role.removeprefix("t_")])
        if queues:
            owner.execute("SELECT pgq_grant(%s, %s, %s)", [f"{role}_some", role.removeprefix("t_"), ["a", "b"]])


@pytest.mark.parametrize("release", OLDER)
@pytest.mark.parametrize("form", FORMS)
def test_grants_are_those_of_a_new_installation(
    as_: As, conn: Connection, grantees: None, extension: Path, dsn: str, form: str, release: str
) -> None:
    """
    All four privileges, with and without queues: on functions that were kept, replaced, renamed and dropped; and what
    pg_dump saves of them.
    """
    owner = as_("owner")
    queues = release != "0.1.0"
    found = []
    for upgraded in (False, True):
        put(owner, form, release) if upgraded else put(owner, form, VERSION) if form == "extension" else run(
            owner, PLAIN
        )
        grant(owner, queues=queues)
        if upgraded:
            assert upgrade(owner)[-1] == VERSION
        known = remembered(owner) if form == "extension" else []
        found.append((owner.execute(PRIVILEGES).fetchall(), owner.execute(PERMISSIONS).fetchall(), known))
        if upgraded:
            break
        conn.execute(
            "DROP EXTENSION IF EXISTS pgq; DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION owner"
        )
    new, old = found
    assert len(new[0]) >= 50
    assert old == new
    # And PostgreSQL agrees.
    suffixes = ("", "_some") if queues else ("",)
    for suffix in suffixes:
        producer, worker = as_(f"t_producer{suffix}"), as_(f"t_worker{suffix}")
        assert WorkerQueue(producer).enqueue("k", [suffix], queue="a").created
        (job,) = WorkerQueue(worker).claim(["a"])
        worker.execute("SELECT pgq_cancel_claimed(%s::bigint, %s::bigint, 'no')", [job.id, job.token])
        for reader in (as_(f"t_reader{suffix}"), as_(f"t_admin{suffix}")):
            assert one(reader, "SELECT state FROM pgq_jobs WHERE id = %s", job.id) == "cancelled"
            assert one(reader, "SELECT sum(cancelled) FROM pgq_stats") > 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            producer.execute("SELECT pgq_cancel(1::bigint)")
    owner.close()
    left = (
        "SELECT (SELECT count(*) FROM pg_proc WHERE proname LIKE 'pgq_upgrade%') "
        "+ (SELECT count(*) FROM pg_class WHERE relname LIKE 'pgq_upgrade%')"
    )
    eventually(lambda: one(conn, left) == 0, "what granted is gone with its session")


@pytest.mark.parametrize("form", FORMS)
def test_grants_by_hand_move_to_the_successors(as_: As, grantees: None, extension: Path, form: str) -> None:
    """On views and functions that are dropped; what was taken from a role by hand it does not get back."""
    owner = as_("owner")
    put(owner, form, "0.2.0")
    owner.execute("SELECT pgq_grant('t_lost', 'worker')")
    owner.execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM t_lost")
    owner.execute("GRANT SELECT (id, state), UPDATE ON pgq_job TO t_by_hand WITH GRANT OPTION")
    owner.execute("GRANT SELECT ON pgq_stats TO PUBLIC")
    owner.execute("GRANT EXECUTE ON FUNCTION pgq_disown, pgq_register, pgq_enqueue, _pgq_limit TO t_by_hand")
    upgrade(owner)
    assert owner.execute(PRIVILEGES).fetchall() == [
        ("pgq_enqueue", "t_by_hand", "EXECUTE", False),
        ("pgq_jobs", "t_by_hand", "UPDATE", True),
        ("pgq_jobs.id", "t_by_hand", "SELECT", True),
        ("pgq_jobs.state", "t_by_hand", "SELECT", True),
        ("pgq_reconcile", "t_by_hand", "EXECUTE", False),
        ("pgq_register", "t_by_hand", "EXECUTE", False),
        ("pgq_stats", "-", "SELECT", False),
    ]


def test_an_extension_needs_temporary_tables_for_its_grants(as_: As, conn: Connection, extension: Path) -> None:
    """It says so, and changes nothing; without grants it needs none."""
    owner = as_("owner")
    put(owner, "extension", "0.2.0")
    owner.execute("SELECT pgq_grant('web', 'producer')")
    name = owner.info.dbname
    conn.execute(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC, owner".encode())
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
        upgrade(owner)
    said = f'role "owner" may not create temporary tables in the database "{name}"'
    assert caught.value.diag.message_primary == said
    assert "GRANT TEMPORARY ON DATABASE" in (caught.value.diag.message_hint or "")
    assert one(owner, "SELECT pgq_version()") == "0.2.0"
    owner.execute("SELECT pgq_revoke('web', 'producer')")
    assert upgrade(owner) == path_from("0.2.0")[1:]


@pytest.mark.parametrize("form", FORMS)
def test_a_view_of_others_is_named_and_stays(as_: As, conn: Connection, extension: Path, form: str) -> None:
    """An upgrade that would have to drop it changes nothing."""
    owner = as_("owner")
    put(owner, form, "0.2.0")
    owner.execute("CREATE SCHEMA mine")
    owner.execute("CREATE VIEW mine.dead AS SELECT id FROM public.pgq_job WHERE state = 'dead'")
    owner.execute("CREATE FUNCTION mine.bury(j bigint) RETURNS void LANGUAGE sql RETURN public.pgq_discard(j, 0)")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist) as caught:
        upgrade(owner)
    assert caught.value.diag.message_primary == (
        "other objects depend on views or functions that pgq 0.3.0 replaces: function mine.bury(bigint), view mine.dead"
    )
    assert "create them again" in (caught.value.diag.message_hint or "")
    assert one(owner, "SELECT pgq_version()") == "0.2.0"
    assert one(owner, "SELECT count(*) FROM mine.dead") == 0
    owner.execute("DROP SCHEMA mine CASCADE")
    assert upgrade(owner) == path_from("0.2.0")[1:]


@pytest.mark.parametrize("form", FORMS)
def test_workers_of_0_2_0_must_be_stopped(as_: As, dsn: str, extension: Path, form: str) -> None:
    """The error names them, and the processes of the server that can be ended; a worker that has gone is none."""
    owner, worker, gone = as_("owner"), as_("owner"), as_("owner")
    put(owner, form, "0.2.0")
    gone.execute("SELECT pgq_register('gone')")
    gone.close()
    worker.execute("SELECT pgq_register('here')")
    # A lock of this kind that is no worker's.
    owner.execute("SELECT pg_advisory_lock('pgq_worker'::regclass::oid::integer, 4711)")
    with pytest.raises(psycopg.errors.ObjectInUse) as caught:
        upgrade(owner)
    assert caught.value.diag.message_primary == 'workers of pgq 0.2.0 are present: "here"'
    assert f"({worker.info.backend_pid})" in (caught.value.diag.message_hint or "")
    assert one(owner, "SELECT pgq_version()") == "0.2.0"
    complaint = call(COMMAND, "--dsn", make_conninfo(dsn, user="owner"), "upgrade", code=1)
    assert 'pgq: workers of pgq 0.2.0 are present: "here"\nhint: Stop these workers' in complaint
    worker.close()
    eventually(lambda: one(owner, "SELECT count(*) FROM _pgq_presence") == 1, "its session is gone")
    assert upgrade(owner) == path_from("0.2.0")[1:]
    assert owner.execute("SELECT name FROM pgq_worker_session ORDER BY 1").fetchall() == [("gone",), ("here",)]


def test_the_time_is_said_beforehand(as_: As, dsn: str) -> None:
    """Before any lock is taken, in proportion to the jobs that wait; the command prints it."""
    owner, reader = as_("owner"), as_("owner")
    put(owner, "plain", "0.2.0")
    WorkerQueue(owner).enqueue_many([{"kind": "k", "args": n} for n in range(3)])
    reader.execute("BEGIN; LOCK TABLE pgq_waiting IN ACCESS SHARE MODE")
    said: list[str] = []
    thread = Thread(lambda: upgrade(owner, notice=said.append))
    eventually(lambda: said, "the time is said")
    assert one(as_("owner"), "SELECT pgq_version()") == "0.2.0"
    reader.execute("COMMIT")
    assert thread.result() == path_from("0.2.0")[1:]
    (notice,) = said
    took = "this upgrade takes about 1 s (3 waiting jobs, 0 with errors)"
    assert notice == f"{took}; drivers of pgq 0.2.0 cannot go on after it"


def test_the_command_prints_what_the_server_says(as_: As, dsn: str) -> None:
    """On standard error, so that standard output is the versions."""
    put(as_("owner"), "plain", "0.2.0")
    command = [str(COMMAND), "--dsn", make_conninfo(dsn, user="owner"), "upgrade"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "pgq 0.3.0 reached\n"
    assert done.stderr.startswith("notice: this upgrade takes about 1 s (0 waiting jobs, 0 with errors); ")


def test_what_a_superuser_adds_belongs_to_the_owner(as_: As, conn: Connection, extension: Path) -> None:
    """A function of his own would act with all his rights; and it finds what is in the schema, and nothing else."""
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
    assert upgrade(owner) == []
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
    assert upgrade(owner) == path_from(OLD)[1:]
    assert one(owner, "SELECT current_setting('search_path')") == "empty, public"


def test_an_upgrade_in_a_schema_of_any_name(as_: As) -> None:
    """The functions still find the objects in it."""
    owner = as_("owner")
    name = 'my "Jobs", and %I'
    with in_schema(owner, name):
        put(owner, "plain")
    assert upgrade(owner, schema=name) == path_from(OLD)[1:]
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
        upgrade(owner)
    assert "make install" in (caught.value.hint or "")
    for file in extension.glob("pgq--*.hidden"):
        file.rename(file.with_suffix(".sql"))
    monkeypatch.setattr(upgrading, "scripts", dict)
    with pytest.raises(NoUpgradePath) as caught:
        upgrade(owner)
    monkeypatch.setattr(upgrading, "driver_version", lambda: "0.0.9")
    with pytest.raises(NoUpgradePath) as caught:
        upgrade(owner)
    assert "pip install --upgrade pgq-jobs" in (caught.value.hint or "")


def test_the_version_wanted_is_that_of_the_driver() -> None:
    """The driver carries the SQL of the same version."""
    assert driver_version() == version("pgq-jobs") == VERSION
