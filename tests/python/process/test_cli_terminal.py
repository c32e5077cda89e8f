"""What commands do on a terminal only: colors, bars, and lines as wide as it is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.database import Connection
from support.processes import installed, invoke
from support.tty import on_terminal

from pgq import WorkerQueue
from pgq.cli.output import local, width_of


@pytest.fixture
def dead(queue: WorkerQueue) -> list[int]:
    """Jobs that are dead."""
    ids = [one.id for one in queue.enqueue_many({"kind": "k", "args": n, "max_retries": 0} for n in range(30))]
    for job in queue.claim(max_jobs=30):
        queue.fail(job, "no")
    return ids


def test_colors_are_for_terminals(dsn: str, dead: list[int]) -> None:
    """NO_COLOR switches them off there; a pipe gets none."""
    assert "\x1b[31mdead" in on_terminal("--dsn", dsn, "list").stdout
    assert "\x1b[" in on_terminal("--dsn", dsn, "doctor").stdout
    for command in ("list", "stats", "doctor"):
        assert "\x1b[" not in on_terminal("--dsn", dsn, command, environment={"NO_COLOR": "1"}).stdout
    assert "\x1b[31mpgq:" in on_terminal("--dsn", dsn, "show", "404").stdout
    assert "\x1b" not in installed("--dsn", dsn, "list").stdout


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_lines_are_as_wide_as_the_terminal(dsn: str, dead: list[int], columns: int) -> None:
    text = on_terminal("--dsn", dsn, "list", columns=columns, environment={"NO_COLOR": "1"}).stdout
    assert len(text.splitlines()) == 1 + len(dead)
    assert max(map(width_of, text.splitlines())) <= columns


def test_characters_that_a_terminal_lacks_are_question_marks(
    dsn: str, queue: WorkerQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take as many columns."""
    queue.enqueue("→→")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    done = installed("--dsn", dsn, "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "??" in done.stdout


def test_a_bulk_retry_has_a_bar_beside_its_lines(dsn: str, dead: list[int]) -> None:
    """Where these go elsewhere: on a terminal they show how far it is."""
    done = on_terminal("--dsn", dsn, "retry", "--kind", "k", streams="stderr")
    assert len(done.stdout.splitlines()) == len(dead)
    assert "retried" in done.stderr
    assert "100%" in done.stderr
    assert done.stderr.endswith("pgq: 30 jobs retried\n")
    assert "%" not in on_terminal("--dsn", dsn, "cancel", "--kind", "k").stdout


def test_a_purge_has_a_bar(dsn: str, dead: list[int]) -> None:
    done = on_terminal("--dsn", dsn, "purge", "--older-than", "0s", streams="stderr")
    assert done.stdout == "30 purged\n"
    assert "100%" in done.stderr


def test_an_enqueue_of_a_file_has_a_bar(dsn: str, conn: Connection, tmp_path: Path) -> None:
    """Its length is that of the file; there is none for what has no length."""
    (tmp_path / "jobs").write_text("".join(f'{{"kind": "k", "args": {n}}}\n' for n in range(50)))
    with (tmp_path / "jobs").open("rb") as file:
        done = on_terminal("--dsn", dsn, "enqueue", "--stdin", "--batch", "10", streams="stderr", stdin=file)
    assert (done.returncode, done.stdout) == (0, "50 enqueued, 0 were already\n")
    assert "100%" in done.stderr
    done = on_terminal("--dsn", dsn, "enqueue", "--stdin", streams="stderr")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 enqueued, 0 were already\n", "")


@pytest.mark.parametrize(
    ("zone", "shown"),
    [("UTC", "2030-07-01 12:00:00+00"), ("Europe/Berlin", "2030-07-01 14:00:00+02"),
     ("Asia/Kolkata", "2030-07-01 17:30:00+0530"), ("America/New_York", "2030-07-01 08:00:00-04")],
)  # fmt: skip
def test_times_are_local_with_their_zone(dsn: str, conn: Connection, queue: WorkerQueue, zone: str, shown: str) -> None:
    """Whatever the zone of the database."""
    job = queue.enqueue("k", ripe_at=datetime(2030, 7, 1, 12, tzinfo=UTC))
    done = on_terminal("--dsn", dsn, "show", str(job.id), environment={"TZ": zone, "NO_COLOR": "1"})
    assert f"ripe at      {shown}\n" in done.stdout


def test_times_of_errors_are_local_too(dsn: str, queue: WorkerQueue, dead: list[int]) -> None:
    text = invoke("--dsn", dsn, "show", str(dead[0])).stdout
    year = local(datetime.now(UTC))[:4]
    assert f"\nattempt 1 at {year}-" in text
    assert "T" not in text.split("attempt 1 at ")[1].split(" by ")[0]
