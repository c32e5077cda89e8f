"""The commands for queues: settings as words, and pauses."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from support.database import Connection, one
from support.processes import Done, invoke

from pgq import Queue


def run(dsn: str, *arguments: str, code: int = 0) -> Done:
    """Run a command and check its exit code."""
    done = invoke("--dsn", dsn, *arguments)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return done


def test_settings_are_words(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers, true, false, null, intervals and texts; what is set comes out as it would be given."""
    monkeypatch.setenv("COLUMNS", "200")
    words = ["max_retries=0", "per=1.5s", "rate=5", "ordered=true", "on_dead=stop", "backoff=1 hour 30 minutes"]
    told = run(dsn, "configure", "q", *words).stdout.splitlines()
    assert sorted(told) == [
        "backoff=01:30:00", "max_retries=0", "on_dead=stop", "ordered=true", "per=00:00:01.5", "rate=5",
    ]  # fmt: skip
    (row,) = json.loads(run(dsn, "queues", "--json").stdout)
    assert (row["max_retries"], row["per"], row["ordered"], row["backoff"]) == (0, 1.5, True, 5400)
    assert "max_retries=0" in run(dsn, "queues").stdout
    assert run(dsn, "configure", "q", "rate=null", "per=null", "ordered=false", "on_dead=null").stdout.count("=") == 3
    assert json.loads(run(dsn, "configure", "q", "--json").stdout) == {
        "backoff": "01:30:00", "max_retries": 0, "ordered": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [(["max_retries"], 2, "is not a setting such as"), (["max_runing=1"], 1, 'setting "max_runing" is unknown'),
     (["per=60"], 1, "setting per is not of JSON type string"), (["lease=1.5"], 2, "is not a duration")],
)  # fmt: skip
def test_what_is_no_setting_is_refused(dsn: str, conn: Connection, words: list[str], code: int, said: str) -> None:
    assert said in run(dsn, "configure", "q", *words, code=code).stderr
    assert one(conn, "SELECT count(*) FROM pgq_queue_setting") == 0


def test_a_queue_and_a_group_are_paused_and_resumed(dsn: str, conn: Connection) -> None:
    until = datetime.fromisoformat("2040-01-31T12:00:00+01:00")
    run(dsn, "pause", "q", "--until", until.isoformat())
    assert one(conn, "SELECT paused_until FROM pgq_queues") == until
    run(dsn, "pause", "q")
    assert one(conn, "SELECT paused AND paused_until IS NULL FROM pgq_queues")
    run(dsn, "pause", "q", "--group", "g")
    assert run(dsn, "resume", "q").stdout == "resumed\n"
    assert run(dsn, "resume", "q").stdout == "was not paused\n"
    assert one(conn, "SELECT paused_groups FROM pgq_queues") == 1
    assert run(dsn, "resume", "q", "--group", "g").stdout == "resumed\n"
    Queue(conn).enqueue("k", queue="q")
    assert run(dsn, "queues").stdout.split("\n")[1].split()[:2] == ["q", "no"]
