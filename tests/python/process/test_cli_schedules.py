"""The commands for schedules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.database import Connection, one
from support.processes import Done, installed, invoke

from pgq import Queue

MODULE = """
import pgq

@pgq.handler("report", schedule="0 7 * * mon-fri", timezone="Europe/Berlin")
def report(job):
    print(job.context)
"""


def run(dsn: str, *arguments: str, code: int = 0) -> Done:
    """Run a command and check its exit code."""
    done = invoke("--dsn", dsn, *arguments)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return done


def test_a_schedule_is_made_and_operated(dsn: str, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    options = ["--queue", "q", "--timezone", "Europe/Berlin", "--catch-up", "none", "--overlap", "allow", "--jitter",
               "10m", "--priority", "2", "--max-retries", "3", "--backoff", "90s", "--backoff-cap", "2h",
               "--group", "g"]  # fmt: skip
    assert run(dsn, "schedule", "set", "s", "0 7 * * *", "report", '{"days": 1}', *options).stdout.count("-") == 2
    (row,) = json.loads(run(dsn, "schedules", "--json").stdout)
    expected = {
        "name": "s", "cron": "0 7 * * *", "kind": "report", "args": {"days": 1}, "queue": "q",
        "timezone": "Europe/Berlin", "catch_up": "none", "overlap": "allow", "jitter": 600, "priority": 2,
        "max_retries": 3, "backoff": 90, "backoff_cap": 7200, "group_key": "g", "source": None, "paused": False,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert invoke("schedule", "--dsn", dsn, "run", "s").returncode == 0
    conn.execute("DELETE FROM pgq_waiting")
    assert run(dsn, "schedules").stdout.split("\n")[1].split()[0] == "s"
    assert [run(dsn, "schedule", "pause", "s").stdout for _ in range(2)] == ["paused\n", "was paused already\n"]
    job_id = int(run(dsn, "schedule", "run", "s").stdout)
    assert one(conn, "SELECT id FROM pgq_waiting") == job_id
    assert run(dsn, "schedule", "resume", "s").stdout.count(":") == 2
    assert [run(dsn, "schedule", "remove", "s").stdout for _ in range(2)] == ["removed\n", "there was none\n"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(["set", "s", "0 7 * *", "k"], 1, "is not an expression of five fields"), (["set", "s", "@daily"], 2, "Missing"),
     (["set", "s", "@daily", "k", "--catch-up", "some"], 2, "Invalid value"), (["run", "s"], 1, "there is no schedule"),
    ],
)  # fmt: skip
def test_what_is_no_schedule_is_refused(dsn: str, arguments: list[str], code: int, said: str) -> None:
    assert said in run(dsn, "schedule", *arguments, code=code).stderr


def test_a_sync_shows_the_difference_and_makes_it(dsn: str, conn: Connection, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(MODULE)
    Queue(conn).schedule("mine", "@daily", "k")

    def sync(*options: str) -> str:
        done = installed("--dsn", dsn, "schedule", "sync", "tasks", *options, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert sync("--dry-run") == "+ report: 0 7 * * mon-fri Europe/Berlin\n"
    assert one(conn, "SELECT count(*) FROM pgq_schedules") == 1
    assert sync() == "+ report: 0 7 * * mon-fri Europe/Berlin\n"
    assert sync() == ""
    (tmp_path / "tasks.py").write_text(MODULE.replace("0 7 * * mon-fri", "@daily"))
    assert sync() == "~ report: cron: 0 7 * * mon-fri -> @daily\n"
    (tmp_path / "tasks.py").write_text(MODULE.replace("report", "other"))
    assert sync() == "+ other: 0 7 * * mon-fri Europe/Berlin\n- report: @daily\n"
    assert conn.execute("SELECT name, source FROM pgq_schedules ORDER BY name").fetchall() == [
        ("mine", None), ("other", "tasks"),
    ]  # fmt: skip


def test_a_worker_makes_the_schedules_of_its_handlers(dsn: str, conn: Connection, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(MODULE)
    done = installed("--dsn", dsn, "worker", "tasks", "--drain", cwd=tmp_path)
    assert (done.returncode, one(conn, "SELECT count(*) FROM pgq_schedules")) == (0, 0)
    done = installed("--dsn", dsn, "worker", "tasks", "--drain", "--schedules", cwd=tmp_path)
    assert done.returncode == 0
    assert "schedule + report: 0 7 * * mon-fri Europe/Berlin" in done.stderr
    assert one(conn, "SELECT source FROM pgq_schedules") == "tasks"
