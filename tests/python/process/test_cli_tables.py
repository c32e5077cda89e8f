"""The tables of the command line: what fits into a line, and what a list leaves out."""

from __future__ import annotations

import json

import pytest
from support.database import Connection
from support.processes import Done, installed, invoke

from pgq import Queue, WorkerQueue
from pgq.cli import main


def run(dsn: str, *arguments: str) -> Done:
    """Run a command that succeeds."""
    done = invoke("--dsn", dsn, *arguments)
    assert done.returncode == 0, done
    return done


@pytest.fixture
def long_names(queue: WorkerQueue) -> None:
    """Jobs and a worker with long names and long errors, in more than one line and in wide characters."""
    queue.register("worker-" * 10, ["a queue with a long name " * 5, "\u9577\u3044"], "host." * 20, 1234567)
    queue.enqueue_many(
        {"kind": kind, "queue": "a queue with a long name " * 5, "max_retries": 0}
        for kind in ("mail.send." * 10, "\u9577\u3044\u540d\u524d" * 10, "tab\tand\nline and \x1b[31mred")
    )
    for job in queue.claim(["a queue with a long name " * 5], max_jobs=2, worker="worker-" * 10):
        queue.fail(job, "\r\n\n  ValueError: no such address: \u9577\u3044 " + "ann " * 90 + "\rTraceback\n  File")
    queue.claim(["a queue with a long name " * 5], worker="worker-" * 10)
    queue.configure("a queue with a long name " * 5, {"max_retries": 3, "backoff": "90 s", "lease": "1 hour"})
    queue.enqueue_batch("last", None, [{"kind": "k"}], queue="a queue with a long name " * 5)
    queue.schedule(
        "a schedule with a long name " * 5, "0 7 * * mon-fri", "k", timezone="Europe/Berlin", source="a module"
    )


def columns(text: str) -> int:
    """Return how many columns the longest line takes; the wide characters of these tests take two."""
    return max(sum(2 if "\u3000" < character < "\ua000" else 1 for character in line) for line in text.split("\n"))


# The commands that print a table, with its first column.
TABLES = {
    "list": "id", "stats": "queue", "stats --ever": "queue", "ps": "name", "queues": "queue", "schedules": "name",
    "batches": "id",
}  # fmt: skip


# Those that print several tables and texts.
DISPLAYS = ("top --once",)


def test_these_are_all_commands_that_print_tables() -> None:
    """
    Those that print JSON and need no arguments, and do nothing but show.

    doctor prints sentences, and statements that are to be copied as a whole.
    """
    acts = {"install", "upgrade", "uninstall", "version", "purge", "retry", "cancel", "enqueue", "doctor"}
    shows = {
        name
        for name, command in main.commands.items()
        if any(one.name == "json_" for one in command.params) and not any(one.required for one in command.params)
    }
    assert shows - acts == {name.split()[0] for name in (*TABLES, *DISPLAYS)}


@pytest.mark.usefixtures("long_names")
@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("command", DISPLAYS)
def test_no_line_of_a_display_is_wider_than_the_terminal(
    dsn: str, monkeypatch: pytest.MonkeyPatch, command: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert columns(run(dsn, *command.split()).stdout) <= width


@pytest.mark.usefixtures("long_names")
@pytest.mark.parametrize("width", [40, 60, 80, 200, 1000])
@pytest.mark.parametrize("command", TABLES)
def test_no_line_of_a_table_is_wider_than_the_terminal(
    dsn: str, monkeypatch: pytest.MonkeyPatch, command: str, width: int
) -> None:
    """Each row is one line, without control characters; the first column is there, whatever the width."""
    monkeypatch.setenv("COLUMNS", str(width))
    text = run(dsn, *command.split()).stdout
    rows = json.loads(run(dsn, *command.split(), "--json").stdout)
    assert len(text.splitlines()) == 1 + len(rows) >= 2
    assert min(width, 300) // 2 < columns(text) <= width
    assert "\x1b" not in text
    assert text.split()[0] == TABLES[command]
    if command == "list":
        assert [line.split()[:2] for line in text.splitlines()[1:]] == [[str(r["id"]), r["state"]] for r in rows]
    if width == 1000:
        assert "\u2026" not in text.replace("ann \u2026", "")


@pytest.mark.usefixtures("long_names")
def test_a_table_is_eighty_columns_wide_where_there_is_no_terminal(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns that operators need most are still there."""
    monkeypatch.delenv("COLUMNS", raising=False)
    heading, *rows = installed("list", "--dsn", dsn).stdout.splitlines()
    assert heading.split() == ["id", "state", "queue", "kind", "ripe", "at", "error"]
    assert columns("\n".join(rows)) <= 80


def test_a_list_shows_the_first_line_of_the_newest_error(dsn: str, queue: WorkerQueue) -> None:
    """Also of a job that waits for its next attempt; programs get it as error."""
    queue.enqueue("k", backoff="0")
    queue.enqueue("fine")
    for error in ("older", "  \n ValueError: no such address\n\nTraceback (most recent call last):\n  File ..."):
        (job,) = (job for job in queue.claim(max_jobs=9) if job.kind == "k" or queue.release(job) is None)
        queue.fail(job, error)
    first, second = json.loads(run(dsn, "list", "--json").stdout)
    assert (first["error"], second["error"]) == (None, "ValueError: no such address")
    assert run(dsn, "list").stdout.splitlines()[2].endswith("  ValueError: no such address")


def test_a_reader_lists_jobs_and_schedules_without_errors(dsn: str, conn: Connection, queue: WorkerQueue) -> None:
    """It may not read them, as little as the arguments."""
    queue.enqueue("k", max_retries=0)
    (job,) = queue.claim()
    queue.fail(job, "secret")
    conn.execute("DROP ROLE IF EXISTS clerk")
    conn.execute("CREATE ROLE clerk LOGIN")
    try:
        queue.grant("clerk", "reader")
        (row,) = json.loads(run(f"{dsn} user=clerk", "list", "--json").stdout)
        assert (row["state"], row["error"]) == ("dead", None)
        queue.schedule("s", "@daily", "k", {"secret": 1})
        (row,) = json.loads(run(f"{dsn} user=clerk", "schedules", "--json").stdout)
        assert (row["name"], row["args"], row["last_error"]) == ("s", None, None)
    finally:
        conn.execute("DROP OWNED BY clerk")
        conn.execute("DROP ROLE clerk")


@pytest.mark.parametrize("json_", [True, False])
def test_a_list_says_that_there_is_more(dsn: str, queue: Queue, json_: bool) -> None:
    """On standard error, so that programs can read the JSON."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    options = ["--json"] if json_ else []
    all_ = run(dsn, "list", "--limit", "3", *options)
    some = run(dsn, "list", "--limit", "2", *options)
    assert all_.stderr == ""
    assert some.stderr == "pgq: there are more than these 2 jobs; --limit shows more\n"
    assert (len(json.loads(some.stdout)) if json_ else len(some.stdout.splitlines()) - 1) == 2


def test_the_text_of_an_error_cannot_control_the_terminal(dsn: str, queue: WorkerQueue) -> None:
    """Its lines stay lines."""
    enqueued = queue.enqueue("k", max_retries=0)
    (job,) = queue.claim()
    queue.fail(job, "red \x1b[31m\nsecond \r line")
    text = run(dsn, "show", str(enqueued.id)).stdout
    assert "\x1b" not in text
    assert "\nred  [31m\nsecond \n line\n" in text
