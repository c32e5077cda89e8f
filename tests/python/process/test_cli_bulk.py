"""The command line changes many jobs: by ids of which some are missing, by filters, and only in words."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from support.database import Connect, Connection, jobs
from support.processes import COMMAND, Done, invoke

from pgq import Queue, Views, WorkerQueue
from pgq.cli import progress


def run(dsn: str, *arguments: str, code: int = 0) -> Done:
    """Run a command and check its exit code."""
    done = invoke(*arguments, "--dsn", dsn)
    assert done.returncode == code, done
    return done


@pytest.fixture
def stock(queue: WorkerQueue) -> dict[str, int]:
    """The ids of jobs in each state, by state and kind; all in the queue q, and one dead job in another."""
    dead = queue.enqueue_many({"kind": kind, "queue": "q", "max_retries": 0} for kind in ("a", "b"))
    other = queue.enqueue("a", queue="other", max_retries=0)
    for job in queue.claim(["q", "other"], max_jobs=3):
        queue.fail(job, "no")
    cancelled = queue.enqueue("a", {"cancelled": True}, queue="q")
    queue.cancel(cancelled.id)
    running = queue.enqueue("a", {"running": True}, queue="q")
    queue.claim(["q"])
    waiting = queue.enqueue_many({"kind": kind, "args": "waiting", "queue": "q"} for kind in ("a", "b"))
    return {
        "dead a": dead[0].id, "dead b": dead[1].id, "dead other": other.id, "cancelled a": cancelled.id,
        "running a": running.id, "waiting a": waiting[0].id, "waiting b": waiting[1].id,
    }  # fmt: skip


def changed(done: Done) -> list[int]:
    """Return the ids in the output."""
    return [int(line.split()[0]) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [("retry --kind a", ["dead a", "dead other"]), ("retry --kind a --queue q", ["dead a"]),
     ("retry --state dead", ["dead a", "dead b", "dead other"]), ("retry --state cancelled", ["cancelled a"]),
     ("retry --queue q --older-than 1d", ["dead b"]), ("retry --queue nowhere", []),
     ("cancel --queue q", ["running a", "waiting a", "waiting b"]), ("cancel --older-than 1d", ["waiting b"]),
     ("cancel --state waiting", ["waiting a", "waiting b"]), ("cancel --kind a --state running", ["running a"])],
)  # fmt: skip
def test_a_filter_changes_what_matches_it_and_nothing_else(
    dsn: str, conn: Connection, stock: dict[str, int], arguments: str, wanted: list[str]
) -> None:
    """A dry run names the same jobs, the oldest first, and changes none."""
    conn.execute("UPDATE pgq_ended SET ended_at = ended_at - interval '2 days' WHERE kind = 'b'")
    conn.execute("UPDATE pgq_waiting SET enqueued_at = enqueued_at - interval '2 days' WHERE kind = 'b'")
    before = jobs(conn)
    asked_for = "SELECT id FROM pgq_jobs WHERE cancel_requested_at IS NOT NULL"
    ids = [stock[name] for name in wanted]
    verb = "cancelled" if arguments.startswith("cancel") else "retried"
    dry = run(dsn, *arguments.split(), "--dry-run")
    assert dry.stdout.splitlines() == [f"{job_id} would be {verb}" for job_id in ids]
    assert dry.stderr == f"pgq: {len(ids)} jobs would be {verb}\n"
    assert jobs(conn) == before
    assert conn.execute(asked_for).fetchall() == []
    done = run(dsn, *arguments.split())
    assert changed(done) == ids
    requested = [stock[name] for name in wanted if name == "running a"]
    asked = f", {len(requested)} requested" if requested else ""
    assert done.stderr == f"pgq: {len(ids) - len(requested)} jobs {verb}{asked}\n"
    assert [line for line in done.stdout.splitlines() if "requested" in line] == [f"{n} requested" for n in requested]
    assert {job_id for job_id, *_ in set(before) ^ set(jobs(conn))} == set(ids) - set(requested)
    assert [job_id for (job_id,) in conn.execute(asked_for).fetchall()] == requested


@pytest.mark.parametrize(
    "arguments", ["retry", "cancel", "retry 1 --kind a", "cancel 1 --state waiting", "retry --dry-run"]
)
def test_ids_and_filters_exclude_each_other(dsn: str, stock: dict[str, int], arguments: str) -> None:
    """Without either, nothing is changed: a filter that was forgotten does not mean all jobs."""
    before = run(dsn, "list").stdout
    assert "give either IDs, or at least one of" in run(dsn, *arguments.split(), code=2).stderr
    assert run(dsn, "list").stdout == before


@pytest.mark.parametrize("command", ["retry", "cancel"])
def test_a_missing_id_does_not_stop_the_others(dsn: str, conn: Connection, stock: dict[str, int], command: str) -> None:
    """It is told on standard error, with one hint for all, and the exit code is 1; likewise without doing it."""
    good = [str(stock[name]) for name in {"retry": ("dead a", "dead b"), "cancel": ("waiting a", "waiting b")}[command]]
    wrong = str(stock["dead other" if command == "cancel" else "running a"])
    before = jobs(conn)
    for dry in (["--dry-run"], []):
        done = run(dsn, command, "404", good[0], wrong, "405", good[1], *dry, code=1)
        assert [str(job_id) for job_id in changed(done)] == good
        lines = done.stderr.splitlines()
        assert [line.split(":")[0] for line in lines] == ["pgq", "hint", "pgq", "hint", "pgq"]
        assert [line for line in lines if "404" in line or "405" in line] == [
            f"pgq: there is no job {n}" for n in (404, 405)
        ]
        assert f"job {wrong} is " in lines[2]
        assert (jobs(conn) == before) == bool(dry)


def test_a_job_that_moves_on_meanwhile_is_no_error_of_a_filter(
    dsn: str, conn: Connection, stock: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and the others are changed."""
    look_up = Views.ids

    def ids(*arguments: Any, **options: Any) -> list[int]:
        found = look_up(*arguments, **options)
        conn.execute("SELECT pgq_purge('0', kind => 'b')")
        return found

    monkeypatch.setattr(Views, "ids", ids)
    done = run(dsn, "retry", "--state", "dead")
    assert changed(done) == [stock["dead a"], stock["dead other"]]
    assert f"pgq: there is no job {stock['dead b']}\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [("--older-than 0s", ["cancelled a", "dead a", "dead b", "dead other"]), ("--older-than 1d", ["dead b"]),
     ("--older-than 0s --kind a --state dead", ["dead a", "dead other"]), ("", []),
     ("--older-than 0s --queue other", ["dead other"]), ("--older-than 0s --state cancelled", ["cancelled a"])],
)  # fmt: skip
def test_purge_deletes_what_matches(
    dsn: str, conn: Connection, stock: dict[str, int], arguments: str, wanted: list[str]
) -> None:
    """A dry run counts the same jobs."""
    conn.execute("UPDATE pgq_ended SET ended_at = ended_at - interval '2 days' WHERE kind = 'b'")
    assert run(dsn, "purge", *arguments.split(), "--dry-run").stdout == f"{len(wanted)} would be purged\n"
    assert {job_id for job_id, *_ in jobs(conn)} == set(stock.values())
    assert run(dsn, "purge", *arguments.split()).stdout == f"{len(wanted)} purged\n"
    assert {job_id for job_id, *_ in jobs(conn)} == set(stock.values()) - {stock[name] for name in wanted}


def test_a_long_purge_tells_its_progress(dsn: str, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """On standard error, and the sum on standard output."""
    monkeypatch.setattr(progress, "PROGRESS_EVERY", -1.0)
    queue.cancel(queue.enqueue("k").id)
    done = run(dsn, "purge", "--older-than", "0s")
    assert (done.stdout, done.stderr) == ("1 purged\n", "1 purged so far\n")


def test_an_enqueue_that_waits_for_another_transaction_says_so(dsn: str, connect: Connect) -> None:
    """Once, after a second, with the number of its process and the name of its application."""
    other = connect(autocommit=False)
    other.execute("SET application_name = 'reports'")
    held = Queue(other).enqueue("k")
    command = [str(COMMAND), "enqueue", "k", "--dsn", dsn]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr
        told = waiting.stderr.readline() + waiting.stderr.readline()
        other.execute("SELECT pg_sleep(1.2)")
        other.commit()
        output, rest = waiting.communicate(timeout=60)
    assert output == f"{held.id} (waiting already)\n"
    assert told.splitlines() == [
        f"pgq: waiting for the transaction of process {other.info.backend_pid} (reports)",
        "hint: It has enqueued or locked the same job; this goes on when it ends. To end its session: SELECT "
        f"pg_terminate_backend({other.info.backend_pid});",
    ]
    assert rest == ""
