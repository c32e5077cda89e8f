"""The README says what is true: its blocks are run, and what they are said to print is what they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psycopg
import pytest
from support.database import Connection, jobs
from support.paths import ROOT
from support.workers import drain

import pgq

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def statements() -> list[tuple[str, list[str]]]:
    """Each SQL statement of the README with the output that stands below it as a comment."""
    found: list[tuple[str, list[str]]] = []
    for line in "\n".join(blocks("sql")).splitlines():
        if line.startswith("--"):
            found[-1][1].append(line.removeprefix("--").removeprefix(" ").rstrip())
        elif line.strip():
            found.append((line, []))
    return found


def test_the_sql_prints_what_the_readme_shows(dsn: str, psql: Path) -> None:
    """Each statement, run by psql in one session, prints the table below it."""
    script = "\\pset footer off\n" + "".join(f"{statement}\n\\echo @\n" for statement, _ in statements())
    run = subprocess.run(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", dsn], input=script, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    printed = [[line.rstrip() for line in part.strip("\n").splitlines()] for part in run.stdout.split("@\n")[:-1]]
    expected = [output for _, output in statements()]
    assert len(expected) > 5
    # psql ends a table with an empty line, which the README does not show.
    assert [list(filter(None, part)) for part in printed] == [list(filter(None, part)) for part in expected]


def test_the_python_does_what_the_readme_says(
    dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The handlers of the README run the jobs that its other block enqueues."""
    handlers, producer, more = blocks("python")
    registry = pgq.Handlers()
    tasks = ModuleType("tasks")
    monkeypatch.setattr(pgq, "handler", registry.handler)
    monkeypatch.setattr(pgq, "around", registry.around)
    for block in (handlers, more):
        exec(compile(block, "README.md", "exec"), tasks.__dict__)
    conn.execute("CREATE TABLE account (id integer PRIMARY KEY, balance integer)")
    for name, value in psycopg.conninfo.conninfo_to_dict(dsn).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), str(value))
    exec(compile(producer, "README.md", "exec"), {})

    assert pgq.Worker(dsn, registry).loops[0].turn() == 1
    assert conn.execute("SELECT balance FROM account").fetchone() == (70,)

    pgq.Queue(conn).enqueue("mail", {"to": "cleo"}, on_duplicate="soonest")
    drain(pgq.Worker(dsn, registry).loops[0])
    assert capsys.readouterr().out == "to cleo, attempt 1\n"

    queue = pgq.Queue(conn, handlers=registry)
    snoozed = queue.enqueue("remind", {"text": "tea"})
    _, failed = queue.enqueue_many([{"kind": "index", "args": "text"}, {"kind": "index", "args": ""}])
    queue.enqueue("move", {"account": 7, "amount": 5})
    drain(pgq.Worker(dsn, registry).loops[0])
    assert conn.execute("SELECT balance FROM account").fetchone() == (75,)
    assert jobs(conn) == [(snoozed.id, "waiting", 0), (failed.id, "waiting", 1)]


def test_the_commands_are_those_of_the_program() -> None:
    """Every command that the README names exists, and every command that exists is named."""
    listed = subprocess.run(
        [Path(sys.executable).with_name("pgq"), "--help"], capture_output=True, text=True, check=True, env=os.environ
    )
    commands = set(re.findall(r"^  ([a-z]+)  ", listed.stdout.split("Commands:")[1], flags=re.MULTILINE))
    shell = next(block for block in blocks("sh") if "pgq install" in block)
    named = set(re.findall(r"^pgq ([a-z]+)", shell, flags=re.MULTILINE))
    also = re.search(r"# also: (.*)$", shell, flags=re.MULTILINE)
    assert also is not None
    assert named | set(also[1].split(", ")) == commands


def test_every_function_is_in_the_reference(conn: psycopg.Connection[tuple[str]]) -> None:
    """The table names every public function and view, and nothing that does not exist."""
    table = README.split("## Reference")[1].split("## What to know")[0]
    named = set(re.findall(r"\bpgq_[a-z_]+", "\n".join(line for line in table.splitlines() if line.startswith("|"))))
    there = conn.execute(
        "SELECT proname FROM pg_proc WHERE proname LIKE 'pgq\\_%' UNION SELECT viewname FROM pg_views "
        "WHERE viewname LIKE 'pgq\\_%'"
    )
    assert named == {row[0] for row in there}


def test_every_line_of_what_happens_is_backed_by_a_test() -> None:
    """Some test is marked with its beginning, and no test with anything else."""
    section = README.split("## What happens when")[1].split("\n## ")[0]
    lines = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("|")]
    said = [line for line in lines if not line.startswith(("-", "when"))]
    marked = {
        when
        for path in (ROOT / "tests/python").glob("*/test_*.py")
        for when in re.findall(r'^@pytest\.mark\.happens\("(.*)"\)$', path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(said) == len(set(said)) > 20
    assert marked == set(said)
