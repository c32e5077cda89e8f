"""
Every SQL, Python and shell block of the documentation runs, and prints what it is said to print.

A comment directly below a SQL statement or a shell command is its output, in which … stands for anything; in Python it
begins with ``# ->``. make runs with --dry-run and pytest with --collect-only, because they would run these tests again.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.connections import django_of
from support.database import Connect, Connection, jobs
from support.pages import Page, matches, pages
from support.paths import ROOT
from support.trouble import go_wrong
from support.workers import drain

import pgq

README, HANDLERS, SCALE = Page("README.md"), Page("docs/handlers.md"), Page("docs/scale.md")
OPERATIONS = Page("docs/operations.md")
RUN = ("sql", "python", "sh")
OTHERS = ("text",)
# The page and the first line of every block that is not run.
EXCEPTIONS = {
    ("docs/web.md", "pgq web                  # http://127.0.0.1:8740"),
    ("docs/clients.md", "SELECT queue, kind, waiting, running, dead FROM pgq_stats \\watch 2"),
    ("docs/clients.md", "SELECT cron.schedule('refresh', '10 seconds', $$"),
    ("docs/clients.md", "CREATE FUNCTION api.remind(address text, minutes integer) RETURNS bigint LANGUAGE sql AS $$"),
    (
        "docs/clients.md",
        'curl http://localhost:3000/rpc/remind --json \'{"address": "ann@example.org", "minutes": 5}\'',
    ),
}
# Pages whose blocks are those of a project, of the first one those in Python and shell: see test_django_page.py,
# test_testing_page.py and test_moves.py.
PROJECT, TESTING, MOVES = Page("docs/django.md"), Page("docs/testing.md"), "docs/moves/"
# All blocks of this one are typed one after the other: see test_tutorial.py.
TUTORIAL = Page("docs/tutorial.md")
# A page whose first command installs pgq begins with an empty database.
EMPTY = {README}
PROGRAMS = Path(sys.executable).parent


def of(language: str) -> list[Any]:
    """Return the pages that have blocks of a language, as parameters."""
    own = [TESTING] if language == "sql" else [PROJECT, TESTING, TUTORIAL]
    return [
        pytest.param(page, id=page.name)
        for page in pages()
        if page.blocks(language) and page not in own and not page.name.startswith(MOVES)
    ]


def test_every_block_runs_or_is_an_exception() -> None:
    """The list of exceptions is exact, and a block in another language holds no code."""
    blocks = [(page, block) for page in pages() for block in page.all_blocks()]
    assert {block.language for _, block in blocks} == {*RUN, *OTHERS}
    assert {(page.name, block.text.splitlines()[0]) for page, block in blocks if not block.runs} == EXCEPTIONS
    assert sum(page.text.count("\n```") for page in pages()) == 2 * len(blocks)


def statements(page: Page) -> Iterator[tuple[str, list[str]]]:
    """Yield each SQL statement of a page with its output."""
    for block in page.blocks("sql"):
        statement, output, complete = "", [], False
        for line in [*block.splitlines(), ""]:
            if complete and line.startswith("--"):
                output.append(line.removeprefix("--").removeprefix(" ").rstrip())
                continue
            if complete:
                yield statement, output
                statement, output = "", []
            statement += f"{line}\n" if statement or line else ""
            complete = re.search(r"(;|\\g\w+)( +--.*)?$", line) is not None
        assert not statement, f"not a whole statement: {statement}"


@pytest.mark.parametrize("page", of("sql"))
def test_sql_prints_what_the_page_shows(
    page: Page, dsn: str, psql: Path, no_web: None, request: pytest.FixtureRequest
) -> None:
    """psql runs the statements of a page in one session."""
    if page == OPERATIONS:
        request.getfixturevalue("trouble")
    script = "\\pset footer off\n" + "".join(f"{statement}\n\\echo @\n" for statement, _ in statements(page))
    run = subprocess.run(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", dsn], input=script, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    printed = [[line.rstrip() for line in part.strip("\n").splitlines()] for part in run.stdout.split("@\n")[:-1]]
    expected = [output for _, output in statements(page)]
    # psql ends a table with an empty line, which the page does not show.
    for shown, part in zip(expected, printed, strict=True):
        assert matches(list(filter(None, shown)), list(filter(None, part))), part


@pytest.fixture
def no_web(conn: Connection) -> Iterator[None]:
    """Without the role that a page creates, before and after."""
    drop = "DO $$BEGIN IF to_regrole('web') IS NOT NULL THEN DROP OWNED BY web; DROP ROLE web; END IF; END$$"
    conn.execute("DROP ROLE IF EXISTS web")
    yield
    conn.execute(drop)


@pytest.fixture
def trouble(conn: Connection, connect: Connect) -> None:
    """What docs/operations.md is about has happened."""
    go_wrong(conn, connect())


@pytest.fixture
def here(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq's environment leads to the database of the test, as PGQ_DSN does."""
    for name, value in psycopg.conninfo.conninfo_to_dict(dsn).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), str(value))
    monkeypatch.setenv("PGQ_DSN", dsn)


@pytest.fixture
def services(dsn: str, other_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq's service file has the databases "orders" and "mail"."""
    lines = []
    for name, where in (("orders", dsn), ("mail", other_dsn)):
        lines += [f"[{name}]", *(f"{key}={value}" for key, value in psycopg.conninfo.conninfo_to_dict(where).items())]
    (tmp_path / "services").write_text("\n".join(lines))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> pgq.Handlers:
    """The registry of @pgq.handler, empty for the time of a test."""
    monkeypatch.setattr(pgq.handlers.default, "_by_kind", {})
    monkeypatch.setattr(pgq.handlers.default, "_around", None)
    monkeypatch.setattr(pgq.handlers.default, "_async_around", None)
    monkeypatch.setattr(pgq.handlers.default, "_json_default", None)
    return pgq.handlers.default


def run_python(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the Python blocks of a page in one module, and compare what they print."""
    module: dict[str, Any] = {"__name__": "tasks"}
    for block in page.blocks("python"):
        exec(compile(block, page.name, "exec"), module)
        assert capsys.readouterr().out.splitlines() == re.findall(r"^ *# -> (.*)$", block, flags=re.MULTILINE)


# Django has no applications here.
@pytest.mark.filterwarnings("ignore:Accessing the database during app initialization")
@pytest.mark.parametrize("page", of("python"))
def test_python_prints_what_the_page_shows(
    page: Page, here: None, registry: pgq.Handlers, conn: Connection, dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blocks of a page run in order, as one module, on a database with the tables that they use."""
    conn.execute("CREATE TABLE account (id integer PRIMARY KEY, balance integer)")
    conn.execute("CREATE TABLE report (day date)")
    with django_of(dsn):
        run_python(page, capsys)


def test_the_handlers_of_the_readme_run_its_jobs(
    dsn: str, here: None, registry: pgq.Handlers, conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """The payment is made once, and the delayed mail is sent when its time comes."""
    conn.execute("CREATE TABLE account (id integer PRIMARY KEY, balance integer)")
    run_python(README, capsys)

    assert pgq.Worker(dsn, registry).loops[0].turn() == 1
    assert conn.execute("SELECT balance FROM account").fetchone() == (70,)

    pgq.Queue(conn).enqueue("mail", {"to": "cleo"}, on_duplicate="soonest")
    drain(pgq.Worker(dsn, registry).loops[0])
    assert capsys.readouterr().out == "to cleo, attempt 1\n"


def test_the_handlers_of_their_page_do_what_it_says(dsn: str, registry: pgq.Handlers, conn: Connection) -> None:
    """Each outcome that the page describes is that of a handler on it."""
    conn.execute("CREATE TABLE account (id integer PRIMARY KEY, balance integer)")
    conn.execute("INSERT INTO account (id, balance) VALUES (7, 100)")
    module: dict[str, Any] = {"__name__": "tasks"}
    for block in HANDLERS.blocks("python"):
        if "@pgq." in block:
            exec(compile(block, HANDLERS.name, "exec"), module)

    queue = pgq.Queue(conn)
    snoozed = queue.enqueue("remind", {"text": "tea"})
    cancelled = queue.enqueue("pay", {"amount": 5})
    _, failed = queue.enqueue_many([{"kind": "index", "args": "text"}, {"kind": "index", "args": ""}])
    queue.enqueue("move", {"account": 7, "amount": 5})
    queue.enqueue("transfer", {"account": 7, "amount": 4})
    fetched = queue.enqueue("fetch", {"url": "/"})
    drain(pgq.Worker(dsn, registry).loops[0])
    assert conn.execute("SELECT balance FROM account").fetchone() == (109,)
    assert queue.result(fetched.id).value == {"length": len("the page /")}
    assert sorted(jobs(conn)) == [
        (snoozed.id, "waiting", 0),
        (cancelled.id, "waiting", 1),
        (failed.id, "waiting", 1),
        (fetched.id, "done", 1),
    ]


def commands(page: Page) -> Iterator[tuple[str, list[str]]]:
    """Yield each shell command of a page with its output."""
    for block in page.blocks("sh"):
        found: list[tuple[str, list[str]]] = []
        for line in block.splitlines():
            if line.startswith("#"):
                found[-1][1].append(line.removeprefix("#").removeprefix(" "))
            elif line:
                found.append((re.sub(r" +# .*$", "", line), []))
        yield from found


@pytest.mark.parametrize("page", of("sh"))
def test_commands_print_what_the_page_shows(
    page: Page, here: None, conn: Connection, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The commands of a page succeed one after the other, beside a module tasks.py with its handlers."""
    if page == SCALE:
        request.getfixturevalue("services")
    if page == OPERATIONS:
        request.getfixturevalue("trouble")
    if page in EMPTY:
        conn.execute("DROP SCHEMA public CASCADE")
        conn.execute("CREATE SCHEMA public")
    (tmp_path / "tasks.py").write_text("\n".join(block for block in page.blocks("python") if "@pgq.handler" in block))
    for command, output in commands(page):
        printed = run_command(command, tmp_path)
        assert not output or matches(output, printed.rstrip("\n").splitlines()), f"{command}\n{printed}"


def run_command(command: str, directory: Path) -> str:
    """Run a command of a page and return what it prints. Its exit code must be 0, or 1 for what doctor finds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment["PATH"] = f"{PROGRAMS}{os.pathsep}{environment['PATH']}"
    # The environment of the tests may be another one than .venv.
    program, *arguments = [re.sub(r"^\.venv/bin", str(PROGRAMS), word) for word in shlex.split(command)]
    if program == "make":
        arguments.insert(0, "--dry-run")
    elif program.endswith("/pytest"):
        arguments.append("--collect-only")
    if program == "make" or ".venv" in command:
        directory = ROOT
    if " | " in command:
        program, arguments = "bash", ["-c", command]
    if "pgq worker" in command or command.startswith("pgq metrics"):
        return run_until_served([program, *arguments], directory, environment)
    run = subprocess.run(
        [program, *arguments], cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    expected = 1 if command == "pgq doctor" and run.stdout.startswith("error: ") else 0
    assert run.returncode == expected, f"{command}\n{run.stdout}\n{run.stderr}"
    return run.stdout


def run_until_served(command: list[str], directory: Path, environment: dict[str, str]) -> str:
    """Run a command that ends only when it is told to, and tell it as soon as its worker is ready."""
    with subprocess.Popen(
        command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            printed = []
            for line in process.stdout:
                printed.append(line)
                if " serves " in line:
                    break
            # Not SIGINT, which a shell has ignored for what runs in its background.
            process.send_signal(signal.SIGTERM)
            printed.append(process.communicate(timeout=30)[0])
        finally:
            process.kill()
    assert process.returncode == 0, "".join(printed)
    assert " stopped" in "".join(printed)
    return ""
