"""Refused installations: a second one in the same schema, and one beside the PgQ of Skytools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import As, Connection, one
from support.installed import PLAIN, RELEASED, VERSION, call, in_schema, released, run
from support.processes import COMMAND
from support.skytools import pgq3

from pgq import AlreadyInstalled, install

INSTALLERS: dict[str, Callable[[Connection], object]] = {
    "plain": lambda conn: run(conn, PLAIN),
    "extension": lambda conn: conn.execute("CREATE EXTENSION pgq"),
    "command": install,
}


@pytest.mark.parametrize("second", INSTALLERS)
@pytest.mark.parametrize("first", ["plain", "extension"])
def test_a_second_installation_in_a_schema_is_refused(as_: As, extension: Path, first: str, second: str) -> None:
    """The message says what is installed, the hint what to do; jobs stay. Another schema can have one."""
    owner = as_("owner")
    INSTALLERS[first](owner)
    owner.execute("SELECT pgq_enqueue('k')")
    with pytest.raises((psycopg.errors.DuplicateObject, AlreadyInstalled)) as caught:
        INSTALLERS[second](owner)
    error = caught.value
    hint = error.hint if isinstance(error, AlreadyInstalled) else None
    if isinstance(error, psycopg.Error):
        hint = error.diag.message_hint
    if (first, second) == ("extension", "extension"):
        assert str(error) == 'extension "pgq" already exists'
    else:
        what = "as an extension" if first == "extension" else "from the plain script"
        assert f'pgq {VERSION} is already installed in the schema "public", {what}' in str(error)
        assert hint is not None
        assert hint.startswith("Use it as it is, remove it with")
    assert one(owner, "SELECT count(*) FROM pgq_waiting") == 1
    with in_schema(owner, "other"):
        if second != "extension" or first != "extension":
            INSTALLERS[second](owner)
            assert one(owner, "SELECT count(*) FROM pgq_waiting") == 0


@pytest.mark.parametrize("first", ["plain", "extension"])
def test_an_older_installation_is_to_be_upgraded(as_: As, extension: Path, first: str) -> None:
    """The hint names the command that upgrades this form."""
    owner = as_("owner")
    if first == "plain":
        run(owner, released(RELEASED[0]))
    else:
        owner.execute(f"CREATE EXTENSION pgq VERSION '{RELEASED[0]}'".encode())
    with pytest.raises(psycopg.errors.DuplicateObject) as caught:
        run(owner, PLAIN)
    wanted = '"pgq upgrade"' if first == "plain" else "ALTER EXTENSION pgq UPDATE"
    assert caught.value.diag.message_hint == f"Bring it up to date with {wanted}."


def test_a_planted_pgq_version_is_not_called(as_: As) -> None:
    """Another role may have created it; called by the script, it would run with the rights of the owner."""
    owner, web = as_("owner"), as_("web")
    owner.execute("GRANT ALL ON SCHEMA public TO web")
    web.execute(
        "CREATE FUNCTION pgq_version() RETURNS text LANGUAGE plpgsql "
        "AS $$BEGIN RAISE 'it acts for %', current_user; END$$"
    )
    with pytest.raises(psycopg.errors.DuplicateFunction):
        run(owner, PLAIN)
    assert one(owner, "SELECT count(*) FROM pg_class WHERE relname ~ '^pgq_'") == 0


SKYTOOLS = 'this database holds another pgq: PgQ of Skytools, in the schema "pgq"'


@pytest.fixture(params=["its extension", "its script"])
def skytools(request: pytest.FixtureRequest, conn: Connection, roles: None, extension: Path) -> None:
    """The PgQ of Skytools in the database, without the parts that need its C code."""
    script = pgq3("pgq_pl_only.sql").read_text()
    if request.param == "its script":
        conn.execute(script.encode())
    else:
        # Its files and pgq's cannot be in one directory at the same time.
        for name, content in {"pgq.control": pgq3("pgq.control").read_text(), "pgq--3.5.sql": script}.items():
            (extension / name).write_text(content)
        conn.execute("CREATE EXTENSION pgq")
        (extension / "pgq--3.5.sql").unlink()
    conn.execute("SET search_path = public")
    assert one(conn, "SELECT count(*) FROM pg_proc WHERE pronamespace = 'pgq'::regnamespace") > 30


@pytest.mark.parametrize("form", INSTALLERS)
def test_a_database_with_the_pgq_of_skytools_is_refused(as_: As, conn: Connection, skytools: None, form: str) -> None:
    """Every way to install raises an error that names it; no object is added or removed."""
    owner = as_("owner")
    before = one(conn, "SELECT count(*) FROM pg_proc")
    with pytest.raises((psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.DuplicateObject)) as caught:
        INSTALLERS[form](owner)
    if isinstance(caught.value, psycopg.errors.ObjectNotInPrerequisiteState):
        assert caught.value.diag.message_primary == SKYTOOLS
        assert caught.value.diag.message_hint == "Use another database, because the two extensions have the same name."
    else:
        # The server itself raises this before it reads a script.
        assert (form, str(caught.value)) == ("extension", 'extension "pgq" already exists')
    assert one(conn, "SELECT count(*) FROM pg_proc") == before


def test_a_schema_named_pgq_can_be_used(as_: As) -> None:
    """The PgQ of Skytools is recognized by its functions, not by the name of the schema."""
    owner = as_("owner")
    with in_schema(owner, "pgq"):
        run(owner, PLAIN)
        assert one(owner, "SELECT created FROM pgq_enqueue('k')")


def test_the_command_refuses_in_two_lines(as_: As, dsn: str) -> None:
    """One says what is installed, the other what to do."""
    owner = as_("owner")
    run(owner, released(RELEASED[0]))
    arguments = ("--dsn", make_conninfo(dsn, user="owner"), "install")
    lines = call(COMMAND, *arguments, code=1).splitlines()
    assert lines[0].startswith(f'pgq: pgq {RELEASED[0]} is already installed in the schema "public"')
    assert lines[1:] == ['hint: Bring it up to date with "pgq upgrade".']
