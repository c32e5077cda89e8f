"""Versions: each release can be upgraded, old callers keep working, and a driver refuses SQL that is too old."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from support.database import Connection
from support.installed import PLAIN, RELEASED, VERSION, in_schema, released, run
from support.paths import ROOT
from support.processes import installed, invoke
from support.threads import Thread

from pgq import Handlers, Outdated, Worker, WorkerQueue
from pgq.version import check_version, parse_version

CHANGELOG = re.findall(r"^## (\d+\.\d+\.\d+), (\S.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
STEPS = {tuple(path.stem.removeprefix("pgq--").split("--")) for path in (ROOT / "sql/upgrade").glob("*.sql")}


@pytest.fixture
def outdated(conn: Connection) -> Connection:
    """A database with the first release only."""
    conn.execute("DROP SCHEMA public CASCADE")
    conn.execute("CREATE SCHEMA public")
    run(conn, released(RELEASED[0]))
    return conn


def test_each_version_has_a_changelog_entry_and_an_upgrade_path() -> None:
    """The entry has a date; the SQL is kept as released, with a script to the next version."""
    versions = [version for version, _ in reversed(CHANGELOG)]
    assert versions[-1] == VERSION
    assert versions == sorted(set(versions), key=parse_version)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in CHANGELOG[1:])
    assert [version for version in versions if version in RELEASED] == versions[: len(RELEASED)]
    assert set(versions) - set(RELEASED) <= {VERSION}
    assert set(itertools.pairwise(versions)) == STEPS


@pytest.mark.parametrize("release", RELEASED)
def test_a_release_is_frozen(release: str) -> None:
    """It has its own version, and none of the placeholders that the build replaces."""
    text = (ROOT / f"sql/released/pgq--{release}.sql").read_text()
    assert f"\n-- pgq {release}: " in text
    assert f"RETURN '{release}';" in text
    assert not re.search(r"@[A-Z]+@", text)


def functions(conn: Connection, schema: str) -> dict[str, dict[str, Any]]:
    """Return the public functions of a schema: arguments in order, how many are required, and the result."""
    rows = conn.execute(
        "SELECT p.proname, p.proargnames, p.proargmodes::text[], "
        "ARRAY(SELECT format_type(t, NULL) FROM unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) AS t), "
        "p.pronargs - p.pronargdefaults, p.pronargs, format_type(p.prorettype, NULL), p.proretset "
        "FROM pg_proc AS p WHERE p.pronamespace = to_regnamespace(%s) AND p.proname ~ '^pgq_'",
        [schema],
    ).fetchall()
    found = {}
    for name, names, modes, types, needed, count, returned, is_set in rows:
        arguments = list(zip(names or [], modes or ["i"] * count, types, strict=True))
        found[name] = {
            "in": [(n, t) for n, mode, t in arguments if mode == "i"],
            "needed": needed,
            "out": ([(n, t) for n, mode, t in arguments if mode != "i"], returned.replace(f"{schema}.", ""), is_set),
        }
    assert len(found) == len(rows), "a function is overloaded"
    return found


def columns(conn: Connection, schema: str, kind: str) -> dict[str, dict[str, tuple[str, bool]]]:
    """Return the columns of each table (r) or view (v): their types, and whether an INSERT must give a value."""
    found: dict[str, dict[str, tuple[str, bool]]] = {}
    for relation, name, type_, must in conn.execute(
        "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), "
        "a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' "
        "FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        "WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = %s AND c.relname ~ '^pgq_' ORDER BY 1, a.attnum",
        [schema, kind],
    ).fetchall():
        found.setdefault(relation, {})[name] = (type_, must)
    return found


def test_old_callers_find_the_interface_they_know(conn: Connection) -> None:
    """
    Each function of the previous release takes the same arguments by position and name, and returns the same columns;
    each view begins with the same columns, and each table has them, so that an old dump can be restored.
    """
    before = max((release for release in RELEASED if release != VERSION), key=parse_version)
    with in_schema(conn, "old"):
        run(conn, released(before))
    with in_schema(conn, "new"):
        run(conn, PLAIN)
    old, new = functions(conn, "old"), functions(conn, "new")
    assert len(old) > 20
    for name, function in old.items():
        assert new[name]["in"][: len(function["in"])] == function["in"], name
        assert new[name]["needed"] <= function["needed"], name
        assert new[name]["out"] == function["out"], name
    for view, known in columns(conn, "old", "v").items():
        assert list(columns(conn, "new", "v")[view].items())[: len(known)] == list(known.items()), view
    for table, known in columns(conn, "old", "r").items():
        there = columns(conn, "new", "r")[table]
        assert {name: there[name] for name in known} == known, table
        assert not any(must for name, (_, must) in there.items() if name not in known), table


@pytest.mark.parametrize(
    "arguments",
    [
        ["enqueue", "k"],
        ["list"],
        ["show", "1"],
        ["stats"],
        ["retry", "1"],
        ["cancel", "1"],
        ["purge"],
        ["worker", "tasks"],
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_a_command_refuses_sql_that_is_too_old(
    outdated: Connection, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """It prints one line and a hint with the command to run, before it does anything."""
    (tmp_path / "tasks.py").write_text("import pgq\npgq.handler('k')(print)\n")
    monkeypatch.chdir(tmp_path)
    # A worker takes signals and imports modules, which is for a process of its own.
    run_ = installed if arguments[0] == "worker" else invoke
    refused = run_("--dsn", dsn, *arguments)
    assert refused.returncode == 1
    complaint = refused.stderr.splitlines()
    assert [line for line in complaint if line.startswith(("pgq:", "hint:"))] == [
        f"pgq: this driver is version {VERSION}, and the SQL in the database {RELEASED[0]}",
        "hint: Run pgq upgrade, with the same --dsn and --schema.",
    ]
    assert outdated.execute("SELECT * FROM pgq_job").fetchall() == []
    assert invoke("--dsn", dsn, "version").stdout.split() == ["driver", VERSION, "SQL", RELEASED[0]]
    assert invoke("--dsn", dsn, "upgrade").returncode == 0
    assert invoke("--dsn", dsn, "stats").returncode == 0


def test_a_worker_does_not_start_on_sql_that_is_too_old(outdated: Connection, dsn: str) -> None:
    """It claims no job."""
    outdated.execute("SELECT pgq_enqueue('k')")
    worker = Worker(dsn, Handlers())
    thread = Thread(worker.run)
    try:
        with pytest.raises(Outdated):
            thread.result(30)
    finally:
        worker.state.stopping = True
    assert outdated.execute("SELECT state, attempt FROM pgq_job").fetchall() == [("waiting", 0)]


def test_newer_sql_works_with_an_older_driver(queue: WorkerQueue, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions are compared as numbers."""
    for version in ("0.1.0", "0.0.99", VERSION):
        monkeypatch.setattr("pgq.version.driver_version", lambda version=version: version)
        check_version(queue)
    monkeypatch.setattr("pgq.version.driver_version", lambda: "0.10.0")
    with pytest.raises(Outdated):
        check_version(queue)
