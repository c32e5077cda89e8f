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
from support.releases import CHANGELOG, is_clean_break, jobs_of_any
from support.threads import Thread

from pgq import Handlers, Outdated, Worker, WorkerQueue
from pgq.version import check_version, parse_version

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
        found.setdefault(relation, {})[name] = (type_.removeprefix(f"{schema}."), must)
    return found


def broken(conn: Connection, old: bytes, new: bytes) -> list[str]:
    """What callers of the old SQL do not find in the new one as they knew it."""
    with in_schema(conn, "old"):
        run(conn, old)
    with in_schema(conn, "new"):
        run(conn, new)
    found = []
    were, are = functions(conn, "old"), functions(conn, "new")
    assert len(were) > 20
    for name, was in were.items():
        function = are.get(name, {"in": [], "needed": 0, "out": None})
        if (
            function["in"][: len(was["in"])] != was["in"]
            or function["needed"] > was["needed"]
            or function["out"] != was["out"]
        ):
            found.append(f"function {name}")
    for view, known in columns(conn, "old", "v").items():
        if list(columns(conn, "new", "v").get(view, {}).items())[: len(known)] != list(known.items()):
            found.append(f"view {view}")
    for table, known in columns(conn, "old", "r").items():
        there = columns(conn, "new", "r").get(table, {})
        if {name: there.get(name) for name in known} != known:
            found.append(f"table {table}")
        found += [f"table {table} needs {name}" for name, (_, must) in there.items() if must and name not in known]
    conn.execute("DROP SCHEMA old CASCADE; DROP SCHEMA new CASCADE")
    return found


def sql_of(version: str) -> bytes:
    """The plain script of a version, released or in work."""
    return released(version) if version in RELEASED else PLAIN


@pytest.mark.parametrize(("before", "after"), sorted(STEPS))
def test_old_callers_find_what_they_knew(conn: Connection, before: str, after: str) -> None:
    """
    Each function of a release takes in the next one the same arguments by position and name, and returns the same
    columns; each view begins with the same columns, and each table has them, so that an old dump fits into it. All
    but a release that its entry in the list of changes declares as a clean break, and which is one.
    """
    found = broken(conn, sql_of(before), sql_of(after))
    if is_clean_break(after):
        assert found
    else:
        assert found == []


def test_the_exemption_is_that_of_one_release() -> None:
    """0.3.0 is the only clean break so far; what is said about a release says nothing of the next one."""
    assert [version for version, _ in CHANGELOG if is_clean_break(version)] == ["0.3.0"]
    entries = "## 0.4.0, 2027-01-01\n\nMore.\n\n- A clean break: no.\n\n## 0.3.0, 2026-12-01\n\nA clean break: yes.\n"
    assert [version for version in ("0.4.0", "0.3.0") if is_clean_break(version, entries)] == ["0.3.0"]


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("pgq_hold(id bigint, token bigint)", "pgq_hold(job bigint, token bigint)", "function pgq_hold"),
        (
            "pgq_release(id bigint, token bigint) RETURNS text",
            "pgq_release(id bigint, token bigint) RETURNS name",
            "function pgq_release",
        ),
        ("jobs jsonb) RETURNS TABLE (n bigint,", "jobs jsonb) RETURNS TABLE (i bigint,", "function pgq_enqueue_many"),
        ("SELECT j.queue, j.kind, j.waiting,", "SELECT j.kind, j.queue, j.waiting,", "view pgq_stats"),
        ("ended_at     timestamptz NOT NULL,", "ended_at     date NOT NULL,", "table pgq_ended"),
        ("context      jsonb,", "context      jsonb, n integer NOT NULL,", "table pgq_waiting needs n"),
    ],
)
def test_the_rule_notices_what_breaks_callers(conn: Connection, before: str, after: str, what: str) -> None:
    """A function, a view or a table that is another one."""
    old = PLAIN.decode()
    assert before in old
    # The bodies are not looked into: the names of their arguments are not theirs any more.
    new = old.replace(before, after, 1).replace("BEGIN ISOLATION", "SET check_function_bodies = off;\nBEGIN ISOLATION")
    assert what in broken(conn, PLAIN, new.encode())
    assert broken(conn, PLAIN, PLAIN) == []


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
    assert jobs_of_any(outdated) == []
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
    assert [job[1:] for job in jobs_of_any(outdated)] == [("waiting", 0)]


def test_newer_sql_works_with_an_older_driver(queue: WorkerQueue, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions are compared as numbers."""
    for version in ("0.1.0", "0.0.99", VERSION):
        monkeypatch.setattr("pgq.version.driver_version", lambda version=version: version)
        check_version(queue)
    monkeypatch.setattr("pgq.version.driver_version", lambda: "0.10.0")
    with pytest.raises(Outdated):
        check_version(queue)
