"""pgq top: in a terminal with its keys, as text, and as JSON."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial

import pytest
from support.database import Connection, jobs
from support.processes import COMMAND, installed, invoke
from support.proxy import Proxy
from support.terminal import Terminal

from pgq import WorkerQueue
from pgq.cli.output import width_of
from pgq.cli.top.figures import span
from pgq.cli.top.lists import Source, since
from pgq.overview import History, read

Top = Callable[..., Terminal]


@pytest.fixture
def busy(conn: Connection, queue: WorkerQueue) -> WorkerQueue:
    """A queue with jobs that wait, one that has died, one that runs, a worker, and a queue that is paused."""
    queue.enqueue("send", queue="mail", max_retries=0)
    queue.register("worker-1", ["mail"], kinds=["send"])
    (job,) = queue.claim(["mail"], worker="worker-1")
    queue.fail(job, "no route to host\nTraceback")
    queue.enqueue_many([{"kind": "send", "queue": "mail", "args": n} for n in range(3)])
    queue.claim(["mail"], worker="worker-1", lease="1 hour")
    queue.enqueue("report", queue="night")
    queue.pause("night")
    return queue


@pytest.fixture
def top(dsn: str) -> Iterator[Top]:
    """Start ``pgq top`` in a terminal, which is closed at the end."""
    with ExitStack() as stack:

        def start(*options: str, dsn: str = dsn, columns: int = 80, lines: int = 24) -> Terminal:
            command = [str(COMMAND), "--dsn", dsn, "top", "--interval", "0.2", *options]
            return stack.enter_context(Terminal(command, columns=columns, lines=lines, env={}))

        yield start


def test_the_six_questions_are_answered_in_a_terminal_of_80_columns(busy: WorkerQueue, top: Top) -> None:
    terminal = top(lines=40)
    terminal.wait("worker-1")
    terminal.wait("in           0/s")
    text = terminal.text
    # A long name of the database leaves less room for the end of the line.
    assert re.search(r"^pgq top  pgq\S+@\S+  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+  every 0.2", terminal.lines[0])
    assert "waiting 3  ripe 3  running 1  dead 1  oldest " in text
    assert "workers 1" in text
    terminal.wait(lambda t: re.search(r"^doctor: ", t.text, re.MULTILINE) is not None and "not looked" not in t.text)
    assert "paused or full: night (paused)" in text
    assert "no route to host" in text
    assert "Traceback" not in text
    assert terminal.lines[-1].startswith("q quit  ? help")
    assert all(len(line) <= 80 for line in terminal.lines)


def test_the_six_questions_are_answered_above_the_fold_of_24_lines(busy: WorkerQueue, top: Top) -> None:
    terminal = top()
    terminal.wait("works: worker-1 1 send")
    text = terminal.text
    assert re.search(r"waits longest: \S+ mail/send, \S+ night/report", text)
    assert "died in the last hour: 1 mail/send no route to host" in text
    assert "paused or full: night (paused)" in text
    terminal.wait(lambda t: "doctor: " in t.text and "not looked" not in t.text)


@pytest.mark.parametrize("columns", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(busy: WorkerQueue, dsn: str, columns: int) -> None:
    busy.enqueue("漢字" * 20, queue="クエ" * 20)
    env = {"COLUMNS": str(columns), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [COMMAND, "--dsn", dsn, "top", "--once"], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert all(width_of(line) <= columns for line in lines)
    assert any(line.startswith("queue") for line in lines)


def test_a_small_terminal_and_one_that_changes_its_size(busy: WorkerQueue, top: Top) -> None:
    terminal = top(columns=30, lines=8)
    terminal.wait("mail")
    terminal.resize(200, 50)
    terminal.wait("longest waiting, of each queue")
    terminal.wait("died within the last hour")
    terminal.resize(60, 12)
    terminal.wait(lambda t: t.lines[-1].startswith("q quit") and "died within" not in t.text)


def has_column(column: str, terminal: Terminal) -> bool:
    """Return whether the list that is shown has a column."""
    return any(re.search(rf"\b{column}\b", line) for line in terminal.lines[9:12])


def test_keys_choose_a_list_sort_and_filter(busy: WorkerQueue, top: Top) -> None:
    terminal = top()
    terminal.wait("mail")
    for key, column in (
        ("2", "kind"),
        ("3", "waits"),
        ("4", "error"),
        ("5", "worker"),
        ("6", "finding"),
        ("1", "queue"),
        ("\t", "kind"),
    ):
        terminal.press(key)
        terminal.wait(partial(has_column, column))
    terminal.press("1")
    terminal.wait("[1 queues]")
    terminal.wait(lambda t: t.text.index("\nmail") < t.text.index("\nnight"))
    terminal.press("S")
    terminal.wait(lambda t: t.text.index("\nnight") < t.text.index("\nmail"))
    terminal.press("/nig")
    terminal.wait(lambda t: t.lines[-1] == "/nig_" and "\nmail" not in t.text)
    terminal.press("\r")
    terminal.wait("only 'nig'")
    terminal.press("\x1b")
    terminal.wait("\nmail")
    terminal.press("?")
    terminal.wait("retry the dead jobs of the row")
    terminal.press("x")
    terminal.wait(lambda t: "retry the dead jobs of the row" not in t.text)
    terminal.press(" ")
    terminal.wait("stopped")


def test_keys_pause_retry_and_cancel_after_a_question(busy: WorkerQueue, conn: Connection, top: Top) -> None:
    terminal = top()
    terminal.wait("\nmail")
    terminal.press("p")
    terminal.wait("pause queue mail? y or n")
    terminal.press("x")
    terminal.wait("nothing was done")
    terminal.press("py")
    terminal.wait("queue mail is paused")
    terminal.wait("mail (paused)")
    terminal.press("p")
    terminal.wait("resume queue mail? y or n")
    terminal.press("y")
    terminal.wait("queue mail goes on")

    terminal.press("4")
    terminal.wait("no route to host")
    terminal.press("r")
    terminal.wait("retry up to 500 dead jobs of mail/send with 'no route to host'?")
    terminal.press("y")
    terminal.wait("1 jobs retried")
    terminal.wait("no job has died")
    assert "dead" not in {state for _, state, _ in jobs(conn)}

    terminal.press("3")
    terminal.wait("ripe at")
    terminal.press("jc")
    terminal.wait(lambda t: re.search(r"cancel job \d+ \(night/report\)\? y or n", t.text) is not None)
    terminal.press("y")
    terminal.wait(": cancelled")
    terminal.press("2c")
    terminal.wait("cancel up to 500 waiting jobs of mail/send?")
    terminal.press("y")
    terminal.wait("3 jobs cancelled")
    assert {state for _, state, _ in jobs(conn)} == {"running", "cancelled"}


def test_a_reader_is_told_that_it_may_not_act(busy: WorkerQueue, conn: Connection, dsn: str, top: Top) -> None:
    conn.execute("DROP ROLE IF EXISTS tap_reader")
    conn.execute("CREATE ROLE tap_reader LOGIN")
    busy.grant("tap_reader", "reader", ["mail"])
    terminal = top(dsn=f"{dsn} user=tap_reader")
    terminal.wait("\nmail")
    assert "night" not in terminal.text
    terminal.press("py")
    terminal.wait("not done: permission denied for function pgq_pause")
    terminal.press("4")
    terminal.wait("ago")
    assert "no route" not in terminal.text


def test_a_database_that_goes_away_and_comes_back(busy: WorkerQueue, dsn: str, proxy: Proxy, top: Top) -> None:
    terminal = top(dsn=proxy.lead(dsn))
    terminal.wait("\nmail")
    proxy.refuse()
    proxy.cut()
    terminal.wait("the numbers are old: no connection: ")
    terminal.press("2")
    terminal.wait("[2 kinds]")
    busy.enqueue("new", queue="other")
    proxy.accept()
    terminal.wait("other")
    terminal.wait(lambda t: "numbers are old" not in t.text)


def test_keys_work_while_the_server_does_not_answer(busy: WorkerQueue, dsn: str, proxy: Proxy, top: Top) -> None:
    terminal = top(dsn=proxy.lead(dsn))
    terminal.wait("\nmail")
    proxy.stall()
    terminal.press("2")
    terminal.wait("[2 kinds]")
    terminal.wait("the numbers are old: the server has not answered for ")
    terminal.press("q")
    assert terminal.ended() == 0


@pytest.mark.parametrize("end", ["q", "\x03", signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_restored(busy: WorkerQueue, top: Top, end: str | signal.Signals) -> None:
    terminal = top()
    terminal.wait("\nmail")
    if isinstance(end, str):
        terminal.press(end)
    else:
        terminal.process.send_signal(end)
    assert terminal.ended() == (0 if isinstance(end, str) else 128 + end)
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_the_text_of_one_snapshot(busy: WorkerQueue, dsn: str) -> None:
    done = invoke("--dsn", dsn, "top", "--once")
    assert done.returncode == 0
    for text in (
        "in 0/s  out 0/s  failed 0/s",
        "waiting 3  ripe 3",
        "paused or full: night (paused)",
        "longest waiting, of each queue",
        "no route to host",
        "worker-1",
    ):
        assert text in done.stdout
    assert "Traceback" not in done.stdout
    assert "\x1b" not in done.stdout


def test_json_has_a_schema_that_stays(busy: WorkerQueue, dsn: str) -> None:
    values = json.loads(invoke("--dsn", dsn, "top", "--once", "--json").stdout)
    assert list(values) == [
        "at", "seconds", "kinds", "counters", "ids", "waits", "deaths", "places", "workers", "unknown", "rates",
        "doctor",
    ]  # fmt: skip
    assert values["unknown"] == {}
    assert list(values["rates"]["all"]) == ["enqueued", "ended", "done", "failed", "waited", "ran"]
    assert [row["queue"] for row in values["rates"]["queues"]] == ["mail", "night"]
    assert (
        values["places"][0] | {"queue": "night", "paused": True, "full": False, "why": "paused"} == values["places"][0]
    )


def test_in_a_pipe_there_is_a_snapshot_at_each_interval(busy: WorkerQueue, dsn: str) -> None:
    command = [str(COMMAND), "--dsn", dsn, "top", "--interval", "0.1", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.kill()
    assert lines[0]["at"] < lines[1]["at"]


def test_without_rich_a_terminal_is_refused_and_text_is_not(
    busy: WorkerQueue, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.delitem(sys.modules, "rich.console", raising=False)
    monkeypatch.delitem(sys.modules, "pgq.cli.top.screen", raising=False)
    assert invoke("--dsn", dsn, "top", "--once").returncode == 0
    monkeypatch.setattr("pgq.cli.top.command.is_terminal", lambda: True)
    done = invoke("--dsn", dsn, "top")
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        [
            "pgq: this Python has no module rich, with which pgq top draws in a terminal",
            "hint: Install pgq-jobs[top], or call pgq top --once.",
        ],
    )


def test_a_role_without_privileges_gets_a_hint(conn: Connection, dsn: str) -> None:
    conn.execute("DROP ROLE IF EXISTS tap_nobody")
    conn.execute("CREATE ROLE tap_nobody LOGIN")
    done = installed("--dsn", f"{dsn} user=tap_nobody", "top", "--once")
    assert done.returncode == 1
    assert "pgq_grant" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_that_was_claimed_while_the_parts_were_read_runs_for_no_time(conn: Connection) -> None:
    """The time of a snapshot is that of its first part."""
    snapshot = read(conn)
    later = snapshot.at + timedelta(seconds=1)
    assert since(Source(snapshot, History()), later) == timedelta()
    assert span(timedelta()) == "0ms"
    assert span(0.9996) == "1.0s"
