"""Ways to install pgq, and to see what is installed, for the tests of installing, upgrading and dumping."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from postgres.programs import DevpgError, find_bindir
from psycopg import sql

from pgq.schema.upgrade import scripts
from support.database import Connection, one
from support.paths import ROOT
from support.servers import Place

HEADING = re.compile(r"^--\n-- (?:Data for )?Name: (.*?); Type: (.*?); Schema: (.*?); Owner: .*\n--\n", re.MULTILINE)
# Noise of pg_dump: a token that differs in each run, and a setting that came with PostgreSQL 17.
NOISE = re.compile(r"^(?:\\(?:un)?restrict .*|SET transaction_timeout = 0;)\n", re.MULTILINE)
CONTROL = (ROOT / "pgq.control").read_text()
VERSION = re.findall(r"^default_version = '(.*)'$", CONTROL, re.MULTILINE)[0]
RELEASED = sorted(path.stem.removeprefix("pgq--") for path in (ROOT / "sql/released").glob("pgq--*.sql"))
# Between a release and the begin of the next one, the newest release is the version of the build.
OLDER = [release for release in RELEASED if release != VERSION]
PLAIN = (ROOT / "build/pgq.sql").read_bytes()


def released(version: str) -> bytes:
    """Return the plain script of a release, made from that of the extension, which is kept."""
    lines = (ROOT / f"sql/released/pgq--{version}.sql").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("\\echo", "SELECT pg_extension_config_dump("))]
    head = "BEGIN; SELECT set_config('search_path', format('%I, pg_temp', current_schema()), true);"
    return "\n".join([head, *kept, "COMMIT;"]).encode()


@contextmanager
def in_schema(conn: Connection, schema: str) -> Iterator[Connection]:
    """Set the search path to this schema, which is created if needed."""
    conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
    before = one(conn, "SELECT current_setting('search_path')")
    conn.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
    yield conn
    conn.execute("SELECT set_config('search_path', %s, false)", [before])


def run(conn: Connection, script: bytes) -> None:
    """Run a script that is one transaction; roll back after an error."""
    try:
        conn.execute(script)
    except psycopg.Error:
        if not conn.closed:
            conn.execute("ROLLBACK")
        raise


def program(place: Place, name: str, *, newer: bool = True) -> str:
    """Return a client program of the server's version, or a newer one if allowed; skip the test without one."""
    own = place.server.bindir / name
    if shutil.which(own) is not None:
        return str(own)
    with pytest.MonkeyPatch.context() as patch, suppress(DevpgError):
        for choice in ("PGQ_BINDIR", "PGQ_PGVERSION"):
            patch.delenv(choice, raising=False)
        # The newest one works with all older servers.
        if newer and shutil.which(other := find_bindir() / name) is not None:
            return str(other)
    pytest.skip(f"this PostgreSQL comes without {name}")


def call(*command: str | Path, text: str | None = None, code: int = 0) -> str:
    """Run a program, check its exit code, and return its output, or its error output if it must fail."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def schema(place: Place, dsn: str) -> dict[str, str]:
    """Return every object of a database as pg_dump describes it, by its heading there."""
    dumped = NOISE.sub("", call(program(place, "pg_dump"), "--schema-only", dsn))
    _, *parts = HEADING.split(dumped)
    found: dict[str, str] = {}
    for name, kind, where, body in zip(*[iter(parts)] * 4, strict=True):
        key = f"{kind} {where}.{name}"
        found[key] = found.get(key, "") + body.replace("\n--\n-- PostgreSQL database dump complete\n--\n", "").strip()
    return found


def members(conn: Connection) -> list[tuple[str, str]]:
    """Return kind and name of each object of the extension."""
    return conn.execute(
        "SELECT i.type, i.identity FROM pg_extension AS e "
        "JOIN pg_depend AS d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e' "
        "CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) AS i WHERE e.extname = 'pgq' ORDER BY 1, 2"
    ).fetchall()


def detach(conn: Connection) -> None:
    """Turn an extension into a plain installation, because pg_dump does not look into extensions."""
    # Depending on the server, row types leave with their tables or must be named, too.
    for kind, identity in [*(member for member in members(conn) if member[0] != "type"), *members(conn)]:
        if (kind, identity) in members(conn):
            conn.execute(f"ALTER EXTENSION pgq DROP {kind} {identity}".encode())
    conn.execute("DROP EXTENSION pgq")


def remembered(conn: Connection) -> list[tuple[object, ...]]:
    """Return what ``members`` leaves out: what pg_dump saves of the extension, and its initial privileges."""
    return conn.execute(
        "SELECT 'saved', c.oid::regclass::text, condition, NULL FROM pg_extension AS e "
        "CROSS JOIN unnest(e.extconfig, e.extcondition) AS c (oid, condition) WHERE e.extname = 'pgq' "
        "UNION ALL "
        "SELECT 'began', i.identity, p.privtype::text, "
        "(SELECT string_agg(a.item::text, ' ' ORDER BY a.item::text) FROM unnest(p.initprivs) AS a (item)) "
        "FROM pg_init_privs AS p CROSS JOIN LATERAL pg_identify_object(p.classoid, p.objoid, p.objsubid) AS i "
        "WHERE i.schema <> 'pg_catalog' AND i.schema <> 'information_schema' ORDER BY 1, 2"
    ).fetchall()


def put(owner: Connection, form: str, release: str = RELEASED[0]) -> None:
    """Install a release in the current schema."""
    if form == "plain":
        run(owner, released(release))
    else:
        owner.execute(f"CREATE EXTENSION pgq VERSION '{release}'".encode())


def script(before: str, after: str) -> bytes:
    """Return a plain upgrade script."""
    return (ROOT / f"build/upgrades/{before}--{after}.sql").read_bytes()


def path_from(release: str) -> list[str]:
    """Return the versions from a release to this one."""
    path, steps = [release], scripts()
    while path[-1] != VERSION:
        path.append(steps[path[-1]][0])
    return path


def extended(text: str, more: str) -> str:
    """Return an upgrade script of either form with one more statement at its end."""
    if text.endswith("COMMIT;\n"):
        return text.removesuffix("COMMIT;\n") + f"{more}\nCOMMIT;\n"
    return f"{text}{more}\n"
