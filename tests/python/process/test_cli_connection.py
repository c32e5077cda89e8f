"""The connection of the command line: where its DSN comes from, and that no password shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo
from support.processes import invoke

from pgq import Queue


def test_an_unreachable_database_is_exit_code_3(tmp_path: Path) -> None:
    for command in (["stats"], ["enqueue", "k"], ["install"]):
        done = invoke("--dsn", f"host={tmp_path} port=5432", *command)
        assert (done.returncode, len(done.stderr.splitlines())) == (3, 2)
        assert done.stderr.startswith("pgq: cannot reach the database")
        assert "\nhint: " in done.stderr


@pytest.mark.parametrize(
    ("wrong", "code"),
    [("postgresql://me:s3cret@127.0.0.1:1/db", 3), ("host=/nowhere password=s3cret", 3),
     ("password=s3cret nonsense", 1), ("postgresql://me:s3cret@[::1/db", 1), ("nonsense=1 password=s3cret", 1)],
)  # fmt: skip
def test_a_wrong_dsn_does_not_show_its_password(wrong: str, code: int) -> None:
    """libpq cannot parse it, or the server is not reachable."""
    done = invoke("--dsn", wrong, "stats")
    assert done.returncode == code, done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_dsn_can_come_from_the_environment(dsn: str, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGQ_DSN is the default of the option."""
    queue.enqueue("k")
    monkeypatch.setenv("PGQ_DSN", dsn)
    assert len(json.loads(invoke("list", "--json").stdout)) == 1
    assert invoke("--dsn", "host=/nowhere", "list").returncode == 3


@pytest.mark.parametrize("password", [True, False])
def test_a_password_on_the_command_line_causes_a_warning(
    dsn: str, monkeypatch: pytest.MonkeyPatch, password: bool
) -> None:
    """The warning does not repeat it; a password from the environment causes none."""
    secret = make_conninfo(dsn, password="s3cret")
    for command in (["--dsn", secret if password else dsn, "stats"], ["stats", "--dsn", secret if password else dsn]):
        done = invoke(*command)
        assert done.returncode == 0
        assert ("PGPASSFILE" in done.stderr) == password
        assert "s3cret" not in done.stderr + done.stdout
    monkeypatch.setenv("PGQ_DSN", secret)
    assert invoke("stats").stderr == ""
