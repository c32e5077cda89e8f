"""The page about tests: its blocks are the files and the commands of a project."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pgtap
import pytest
from postgres.tap import find_pgtap, find_prover
from psycopg.conninfo import conninfo_to_dict
from support.database import Connection
from support.pages import Page
from support.paths import ROOT
from support.servers import Place

PAGE = Page("docs/testing.md")


@pytest.fixture
def project(dsn: str, conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the page, each named by the first line of its block. The environment leads to an empty database."""
    conn.execute("DROP SCHEMA public CASCADE")
    conn.execute("CREATE SCHEMA public")
    for name, value in conninfo_to_dict(dsn).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), str(value))
    for block in [*PAGE.blocks("sql"), *PAGE.blocks("python")]:
        (name,) = re.findall(r"\A(?:--|#) (\S+)\n", block)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(block)
    return tmp_path


def test_the_suite_in_sql_passes_with_psql_and_pg_prove_alone(project: Path, conn: Connection, psql: Path) -> None:
    """The commands run in their order; only CREATE EXTENSION is replaced."""
    for path in ("build/pgq.sql", "python/src/pgq/testkit.sql", "python/src/pgq/pgq_tap.sql"):
        shutil.copy(ROOT / path, project)
    create, load, prove = (line for block in PAGE.blocks("sh")[1:] for line in block.splitlines())
    assert create == "psql -c 'CREATE EXTENSION pgtap'"
    pgtap.install(find_pgtap(), conn.info.dbname)
    prover = find_prover(conn.info.dbname)
    for program, command in (([psql, "-X", "-q", "-v", "ON_ERROR_STOP=1"], load), (prover.command, prove)):
        done = subprocess.run(
            [*program, *shlex.split(command)[1:]],
            cwd=project, env=os.environ | prover.env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert "Tests=7" in done.stdout


@pytest.mark.slow
def test_the_suite_in_python_passes(project: Path, place: Place) -> None:
    """On the server that the options of pytest-postgresql name."""
    (command,) = PAGE.blocks("sh")[:1]
    program, *words = shlex.split(command)
    assert program == "python"
    server = ["--postgresql-host", place.host, "--postgresql-port", str(place.port), "--postgresql-user", place.user]
    done = subprocess.run(
        [sys.executable, *words, "-p", "no:cacheprovider", "-p", "no:django", *server],
        cwd=project, env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "4 passed" in done.stdout
