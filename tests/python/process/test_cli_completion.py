"""What a shell completes: commands, options, and the queues and kinds of the database."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from support.database import Connection
from support.pages import Page, cells
from support.processes import COMMAND

from pgq import WorkerQueue

COMMANDS = Page("docs/commands.md")


def complete(*words: str, shell: str = "bash", dsn: str | None = None) -> list[str]:
    """Return what a shell is told when the last word is to be completed; types come first, as click prints them."""
    line = " ".join(["pgq", *words])
    environment = {"COMP_WORDS": line, "COMP_CWORD": str(len(words)), "_PGQ_COMPLETE": f"{shell}_complete"}
    if shell == "fish":
        environment["COMP_CWORD"] = words[-1]
    done = subprocess.run(
        [COMMAND],
        env=os.environ | environment | ({} if dsn is None else {"PGQ_DSN": dsn}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return list(filter(None, done.stdout.splitlines()))


@pytest.fixture
def queues(queue: WorkerQueue) -> None:
    """Jobs in some queues, a queue that has only settings, and a worker with a kind of its own."""
    for name, kind in (("mail", "send"), ("mail", "bounce"), ("reports", "sum"), ("a b", "k")):
        queue.enqueue(kind, queue=name)
    queue.configure("mass", {"max_running": 1})
    queue.register("w", ["maps"], kinds=["sketch"])


@pytest.mark.usefixtures("queues")
@pytest.mark.parametrize(
    ("words", "found"),
    [(["list", "--queue", "ma"], ["mail", "maps", "mass"]), (["pause", "re"], ["reports"]), (["list", "--kind", "s"],
     ["send", "sketch", "sum"]), (["enqueue", "bo"], ["bounce"]), (["worker", "m", "--queue", "z"], []),
     (["schedule", "set", "s", "@daily", "se"], ["send"]), (["purge", "--queue", "a"], ["a b"])],
    ids=str,
)  # fmt: skip
def test_queues_and_kinds_are_completed_from_the_database(dsn: str, words: list[str], found: list[str]) -> None:
    assert complete(*words, dsn=dsn) == [f"plain,{name}" for name in found]


@pytest.mark.usefixtures("queues")
def test_each_shell_gets_its_own_form(dsn: str) -> None:
    assert complete("list", "--queue", "re", shell="zsh", dsn=dsn) == ["plain", "reports", "_"]
    assert complete("list", "--queue", "re", shell="fish", dsn=dsn) == ["plain,reports"]


@pytest.mark.usefixtures("queues")
def test_the_database_may_be_named_on_the_line(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before or after the command; a schema as well."""
    service = "\n".join(["[here]", *(f"{key}={value}" for key, value in conninfo_to_dict(dsn).items())])
    (tmp_path / "services").write_text(service)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    for words in (["--dsn", "service=here", "pause", "re"], ["pause", "--dsn", "service=here", "re"]):
        assert complete(*words) == ["plain,reports"]
    assert complete("--dsn", "service=here", "pause", "--schema", "public", "re") == ["plain,reports"]
    assert complete("--dsn", "service=here", "pause", "--schema", "nowhere", "re") == []


def test_a_database_that_does_not_reply_completes_nothing(tmp_path: Path) -> None:
    """No message disturbs the line that is typed, and nobody waits for long."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        for bad in (f"host={tmp_path}", f"host=127.0.0.1 port={mute.getsockname()[1]}", "not a dsn"):
            assert complete("pause", "re", dsn=bad) == []


def test_a_role_without_privileges_completes_nothing(dsn: str, conn: Connection, queue: WorkerQueue) -> None:
    queue.enqueue("k")
    conn.execute("DROP ROLE IF EXISTS clerk")
    conn.execute("CREATE ROLE clerk LOGIN")
    assert complete("pause", "", dsn=f"{dsn} user=clerk") == []
    conn.execute("DROP ROLE clerk")


def test_commands_and_options_are_completed_without_a_database() -> None:
    assert complete("sched") == ["plain,schedule", "plain,schedules"]
    assert "plain,--older-than" in complete("purge", "--o")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_page_shows_what_each_shell_is_to_run(shell: str) -> None:
    """A shell that is there accepts the script."""
    (line,) = (cell for cell in cells(COMMANDS.section("Complete by the shell"), 1) if f"{shell}_source" in cell)
    assert f"_PGQ_COMPLETE={shell}_source pgq" in line
    done = subprocess.run(
        [COMMAND], env=os.environ | {"_PGQ_COMPLETE": f"{shell}_source"}, capture_output=True, text=True, check=True
    )
    assert "_PGQ_COMPLETE" in done.stdout
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True)
