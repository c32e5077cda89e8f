"""Packaging: every way to install makes the same objects, and make dist builds what is published."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo
from support.database import As, Connection
from support.installed import CONTROL, PLAIN, RELEASED, VERSION, call, detach, in_schema, members, program, run, schema
from support.paths import ROOT
from support.processes import COMMAND
from support.servers import Place
from support.skytools import pgq3
from support.sources import commit_sources

from pgq.version import driver_version

PAYLOAD = re.compile(r"^SELECT pgtle\.(\w+)\(([^$]*), \$pg_tle\$(.*?)\$pg_tle\$\);\n", re.MULTILINE | re.DOTALL)
Install = Callable[[str, Connection, str], None]
ODD = 'my "Jobs", and %I'


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make, without the variables of an outer make, which passes on PYTHON if its command line has it."""
    environ = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "PYTHON", "VENV")}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def install(psql: Path, dsn: str, extension: Path) -> Iterator[Install]:
    """Return a function that installs pgq in the named form, into an existing schema, as the owner of the database."""
    owners = make_conninfo(dsn, user="owner")

    def install_(form: str, owner: Connection, where: str) -> None:
        if form == "psql":
            environ = os.environ | {"PGOPTIONS": f"-c search_path={quoted(where).replace(' ', chr(92) + ' ')}"}
            done = subprocess.run(
                [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", ROOT / "build/pgq.sql", owners],
                env=environ, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        elif form == "command":
            call(COMMAND, "--dsn", owners, "--schema", where, "install")
        else:
            if form == "pg_tle":
                # pg_tle installs its scripts as extensions that require it, so its schema is on their path.
                ((_, _, script), *_) = PAYLOAD.findall((ROOT / "build/pgq.pg_tle.sql").read_text())
                (extension / f"pgq--{VERSION}.sql").write_text(script)
                (extension / "pgq.control").write_text(CONTROL + "requires = 'pg_tle_stub'\n")
                (extension / "pg_tle_stub.control").write_text(
                    "default_version = '1'\nschema = pgtle\nsuperuser = false\n"
                )
                (extension / "pg_tle_stub--1.sql").write_text("")
                owner.execute("CREATE EXTENSION pg_tle_stub")
            owner.execute(f"CREATE EXTENSION pgq SCHEMA {quoted(where)}".encode())
            assert len(members(owner)) > 50
            detach(owner)

    yield install_
    for left in extension.glob("pg_tle_stub*"):
        left.unlink()


def quoted(name: str) -> str:
    """Return a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize("where", ["jobs", ODD])
@pytest.mark.parametrize("form", ["psql", "command", "extension", "pg_tle"])
def test_every_form_makes_the_same_objects(
    as_: As, place: Place, dsn: str, install: Install, form: str, where: str
) -> None:
    """pg_dump shows the same definitions, comments, owners and privileges, in a schema of any name."""
    owner = as_("owner")

    def made(by: Callable[[], None]) -> dict[str, str]:
        with in_schema(owner, where):
            by()
            found = {key: body for key, body in schema(place, dsn).items() if "pgtle" not in key + body}
        owner.execute(f"DROP SCHEMA {quoted(where)} CASCADE".encode())
        return found

    plain = made(lambda: run(owner, PLAIN))
    assert len(plain) > 100
    assert made(lambda: install(form, owner, where)) == plain


def test_the_pg_tle_script_holds_the_scripts_of_the_extension() -> None:
    """It has each script unchanged in a call of pg_tle, and nothing else."""
    text = (ROOT / "build/pgq.pg_tle.sql").read_text()
    comment = re.findall(r"^comment = ('.*')$", CONTROL, re.MULTILINE)[0]
    calls = PAYLOAD.findall(text)
    head, *rest = PAYLOAD.sub("\0", text).split("\0")
    assert (head.splitlines()[-1], "".join(rest)) == ("BEGIN;", "COMMIT;\n")
    assert all(line.startswith("--") for line in head.splitlines()[:-1])
    assert calls[0] == (
        "install_extension",
        f"'pgq', '{VERSION}', {comment}",
        (ROOT / f"build/pgq--{VERSION}.sql").read_text(),
    )
    paths = sorted((ROOT / "build").glob("pgq--*--*.sql"))
    assert len(paths) == len(calls) - 1 > 0
    for path, (name, arguments, script) in zip(paths, calls[1:], strict=True):
        before, after = path.stem.removeprefix("pgq--").split("--")
        assert (name, arguments) == ("install_update_path", f"'pgq', '{before}', '{after}'")
        assert script == path.read_text()


def test_make_install_and_uninstall_handle_exactly_the_files_of_pgq(place: Place, tmp_path: Path) -> None:
    arguments = [f"DESTDIR={tmp_path}", f"PG_CONFIG={program(place, 'pg_config')}"]
    done = make("install", *arguments)
    assert done.returncode == 0, done.stderr
    found = {path.name: path for path in tmp_path.rglob("*") if path.is_file()}
    assert set(found) == {"pgq.control", *(path.name for path in (ROOT / "build").glob("pgq--*.sql"))}
    assert {path.parent.name for path in found.values()} == {"extension"}
    for name, path in found.items():
        assert path.read_bytes() == (ROOT / ("" if name == "pgq.control" else "build") / name).read_bytes()
    assert make("install", *arguments).returncode == 0, "it replaces its own files"
    assert make("uninstall", *arguments).returncode == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    anew = make("install", "--dry-run", "--always-make", *arguments).stdout
    if VERSION not in RELEASED:
        assert "\npython3 tools/upgrade_script.py " in anew, "PGXS has another PYTHON, which may be none"


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_make_leaves_the_files_of_skytools_alone(place: Place, tmp_path: Path, verb: str) -> None:
    """It writes and removes nothing where another extension has the name."""
    pg_config = program(place, "pg_config")
    foreign = pgq3("pgq.control")
    directory = tmp_path / call(pg_config, "--sharedir").strip().lstrip("/") / "extension"
    directory.mkdir(parents=True)
    shutil.copy(foreign, directory)
    done = make(verb, f"DESTDIR={tmp_path}", f"PG_CONFIG={pg_config}")
    assert done.returncode != 0
    assert "belongs to another pgq" in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [directory / "pgq.control"]
    assert (directory / "pgq.control").read_bytes() == foreign.read_bytes()


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of make dist for the sources as they are now, committed or not."""
    if shutil.which("git") is None:
        pytest.skip("make dist reads the sources from git")
    copy = tmp_path_factory.mktemp("dist") / "pgq"
    commit_sources(copy)
    (copy / ".venv").mkdir()
    (copy / ".venv/ready").touch()
    os.utime(copy / ".venv/ready", (2**32, 2**32))
    done = make("dist", f"BIN={Path(sys.executable).parent}", cwd=copy)
    assert done.returncode == 0, done.stderr
    return copy / "build/dist"


def test_make_dist_builds_all_that_is_published(dist: Path) -> None:
    """It builds a source archive for PGXN, two packages for PyPI, and the scripts for users of SQL alone."""
    scripts = {"pgq.pg_tle.sql", "pgq.sql", "pgq_tap.sql", "testkit.sql"}
    packages = {f"pgq_jobs-{VERSION}-py3-none-any.whl", f"pgq_jobs-{VERSION}.tar.gz"}
    assert {path.name for path in dist.iterdir()} == packages | {f"pgq-{VERSION}.zip", *scripts}
    assert (dist / "pgq.sql").read_bytes() == PLAIN
    assert (dist / "pgq.pg_tle.sql").read_bytes() == (ROOT / "build/pgq.pg_tle.sql").read_bytes()


def test_the_archive_for_pgxn_builds_the_same_files(dist: Path, tmp_path: Path) -> None:
    """Its META.json names the version, and files that exist."""
    with zipfile.ZipFile(dist / f"pgq-{VERSION}.zip") as archive:
        archive.extractall(tmp_path)
    (root,) = tmp_path.iterdir()
    assert root.name == f"pgq-{VERSION}"
    meta = json.loads((root / "META.json").read_text())
    assert {"name", "abstract", "version", "maintainer", "license", "provides", "meta-spec"} <= set(meta)
    assert (meta["name"], meta["version"], meta["provides"]["pgq"]["version"]) == ("pgq", VERSION, VERSION)
    for key in ("file", "docfile"):
        assert (root / meta["provides"]["pgq"][key]).is_file()
    assert make("all", cwd=root).returncode == 0
    for path in [root / "pgq.sql", root / "build/pgq.sql"]:
        assert path.read_bytes() == PLAIN
    scripts = sorted((ROOT / "build").glob("pgq--*.sql"))
    assert {path.name: path.read_bytes() for path in root.glob("build/pgq--*.sql")} == {
        path.name: path.read_bytes() for path in scripts
    }


def test_the_packages_for_pypi_carry_the_sql(dist: Path, tmp_path: Path) -> None:
    """The wheel, and the wheel built from the source package, hold all scripts unchanged, and the license."""
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    shutil.unpack_archive(source, tmp_path)
    (unpacked,) = tmp_path.iterdir()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again"],
        cwd=unpacked, check=True, capture_output=True,
    )  # fmt: skip
    (again,) = tmp_path.glob("again/*.whl")
    for path in (wheel, again):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            assert archive.read("pgq/schema/pgq.sql") == PLAIN
            upgrades = sorted((ROOT / "build/upgrades").iterdir())
            assert [archive.read(f"pgq/schema/upgrades/{file.name}") for file in upgrades] == [
                f.read_bytes() for f in upgrades
            ]
            assert {"pgq/testkit.sql", "pgq/pgq_tap.sql", "pgq/py.typed"} <= set(names)
            assert [name for name in names if name.endswith("/LICENSE")]
            assert f"Version: {driver_version()}\n" in archive.read(f"pgq_jobs-{VERSION}.dist-info/METADATA").decode()
