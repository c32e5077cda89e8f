"""The command line with several databases: their names, what is shown and changed in each, and the worker of all."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support.database import Connection, one
from support.processes import Start, installed, invoke
from support.threads import eventually

from pgq import Queue, WorkerQueue
from pgq.cli.databases import names_of


@pytest.fixture
def both(dsn: str, other_dsn: str) -> list[str]:
    """The options that name both databases."""
    return ["--dsn", dsn, "--dsn", other_dsn]


@pytest.fixture
def names(conn: Connection, other: Connection) -> tuple[str, str]:
    """The names of both databases."""
    return conn.info.dbname, other.info.dbname


def test_rows_name_their_database(
    conn: Connection, other: Connection, both: list[str], names: tuple[str, str], dsn: str
) -> None:
    """The options may stand before the command or after it; a single database has no such column."""
    for n, queue in enumerate((Queue(conn), Queue(other))):
        for _ in range(n + 1):
            queue.enqueue("k", dedup=False)
        queue.configure("default", {"max_retries": n})
    rows = json.loads(invoke("list", "--json", *both).stdout)
    assert [(row["database"], row["id"]) for row in rows] == [(names[0], 1), (names[1], 2), (names[1], 1)]
    for command in ("stats", "queues"):
        rows = json.loads(invoke(*both, command, "--json").stdout)
        assert [(row["database"], row["waiting"]) for row in rows] == [(names[0], 1), (names[1], 2)]
        table = invoke(*both, command).stdout.splitlines()
        assert [line.split()[0] for line in table] == ["database", *names]
    assert [row["database"] for row in json.loads(invoke(*both, "stats", "--ever", "--json").stdout)] == [*names]
    assert json.loads(invoke(*both, "ps", "--json").stdout) == []
    assert "database" not in invoke("--dsn", dsn, "stats", "--json").stdout
    assert "database" not in invoke("--dsn", dsn, "stats").stdout


def test_the_limit_of_a_list_is_that_of_each_database(conn: Connection, other: Connection, both: list[str]) -> None:
    for queue in (Queue(conn), Queue(other)):
        queue.enqueue_many({"kind": "k", "args": n} for n in range(3))
    done = invoke(*both, "list", "--limit", "2", "--json")
    assert [row["id"] for row in json.loads(done.stdout)] == [3, 2, 3, 2]
    assert "--limit shows more" in done.stderr


def test_jobs_that_match_are_changed_in_each_database(
    conn: Connection, other: Connection, both: list[str], names: tuple[str, str]
) -> None:
    for queue in (Queue(conn), Queue(other)):
        queue.enqueue_many({"kind": kind} for kind in ("k", "l"))
    done = invoke("cancel", "--kind", "k", *both)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [f"{name}: 1 cancelled" for name in names]
    assert done.stderr.splitlines() == [f"pgq: {name}: 1 jobs cancelled" for name in names]
    for found in (conn, other):
        assert one(found, "SELECT kind FROM pgq_jobs WHERE state = 'cancelled'") == "k"
    invoke("retry", "--state", "cancelled", *both)
    assert [one(found, "SELECT count(*) FROM pgq_waiting") for found in (conn, other)] == [2, 2]


def test_an_id_needs_the_one_database_that_it_belongs_to(
    conn: Connection, other: Connection, both: list[str], other_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for queue in (Queue(conn), Queue(other)):
        queue.enqueue("k")
    done = invoke(*both, "cancel", "1")
    assert done.returncode == 2
    assert "an ID belongs to one database" in done.stderr
    assert [one(found, "SELECT count(*) FROM pgq_waiting") for found in (conn, other)] == [1, 1]
    monkeypatch.setenv("PGQ_DSN", "\n".join([conn.info.dsn, other.info.dsn]))
    assert invoke("cancel", "1", "--dsn", other_dsn).returncode == 0
    assert [one(found, "SELECT count(*) FROM pgq_waiting") for found in (conn, other)] == [1, 0]


def test_other_commands_refuse_several_databases(both: list[str]) -> None:
    for command in (["enqueue", "k"], ["show", "1"], ["install"], ["version"]):
        done = invoke(*both, *command)
        assert done.returncode == 2
        assert "this command uses one database, and there are 2" in done.stderr


def test_one_that_fails_is_told_and_the_others_are_shown(
    dsn: str, conn: Connection, other: Connection, other_dsn: str, tmp_path: Path
) -> None:
    """Its exit code is that of the command."""
    Queue(other).enqueue("k")
    gone = make_conninfo(dsn, host=str(tmp_path))
    done = invoke("--dsn", gone, "--dsn", other_dsn, "stats", "--json")
    assert done.returncode == 3
    assert done.stderr.startswith(f"pgq: {conn.info.dbname}: cannot reach the database")
    assert [row["database"] for row in json.loads(done.stdout)] == [other.info.dbname]
    conn.execute("ALTER SCHEMA public RENAME TO hidden")
    done = invoke("--dsn", dsn, "--dsn", other_dsn, "cancel", "--kind", "k")
    assert done.returncode == 1
    assert done.stdout == f"{other.info.dbname}: 1 cancelled\n"


def test_the_environment_has_one_on_each_line(
    dsn: str, other_dsn: str, queue: Queue, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.enqueue("k")
    monkeypatch.setenv("PGQ_DSN", f"{dsn}\n\n  {other_dsn}\n")
    assert len(invoke("stats").stdout.splitlines()) == 2
    Queue(other).enqueue("k")
    assert len(invoke("stats").stdout.splitlines()) == 3
    assert len(invoke("stats", "--dsn", dsn).stdout.splitlines()) == 2


def test_names_are_those_of_services_and_databases(
    dsn: str, other_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Databases of the same name get host and port; two DSNs that lead to the same database are refused."""
    found = conninfo_to_dict(other_dsn)
    services = tmp_path / "services"
    services.write_text("".join(["[orders]\n", *(f"{key}={value}\n" for key, value in found.items())]))
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    assert names_of("service=orders") == ("orders", f"{found['dbname']}@{found['host']}:{found['port']}")
    assert names_of("service=missing") == ("missing", "service missing")
    assert names_of("dbname=a host=x port=1") == ("a", "a@x:1")
    assert names_of("user=me host=x port=1") == ("me", "me@x:1")
    done = invoke("--dsn", "service=orders", "--dsn", other_dsn, "stats")
    assert (done.returncode, "lead to the same database" in done.stderr) == (2, True)
    done = invoke("--dsn", "dbname=a host=/x port=1", "--dsn", "dbname=a host=/y port=1", "stats")
    errors = [line for line in done.stderr.splitlines() if not line.startswith("hint: ")]
    assert [line.split(": ")[1] for line in errors] == ["a@/x:1", "a@/y:1"]
    done = invoke("--dsn", "password=s3cret nonsense", "--dsn", dsn, "stats")
    assert done.returncode == 1
    assert "s3cret" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_serves_all_of_them(
    start: Start, tmp_path: Path, conn: Connection, other: Connection, other_dsn: str, names: tuple[str, str],
    dsn: str, processes: int,
) -> None:  # fmt: skip
    """It is present in each, and SIGTERM lets each finish."""
    health = tmp_path / "alive"
    process = start("--dsn", dsn, "--dsn", other_dsn, "--processes", str(processes), "--health-file", str(health))
    present = "SELECT count(*) FROM pgq_workers WHERE present"
    for found in (conn, other):
        eventually(lambda found=found: one(found, present) == processes)  # type: ignore[misc]
    eventually(health.exists)
    for n, queue in enumerate((Queue(conn), Queue(other))):
        queue.enqueue("slow", n)
    eventually(lambda: all((tmp_path / f"begun-{n}-1").exists() for n in (0, 1)))
    process.send_signal(signal.SIGTERM)
    for n in (0, 1):
        (tmp_path / f"go-{n}").touch()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    for name, found in zip(names, (conn, other), strict=True):
        assert f" {name}: done 1 slow in " in log
        assert one(found, "SELECT count(*) FROM pgq_jobs") == 0
        assert one(found, "SELECT count(*) FROM pgq_worker_session") == 0


@pytest.mark.slow
def test_a_second_signal_releases_the_jobs_of_all(
    start: Start, tmp_path: Path, conn: Connection, other: Connection, other_dsn: str, dsn: str
) -> None:
    process = start("--dsn", dsn, "--dsn", other_dsn)
    for n, queue in enumerate((Queue(conn), Queue(other))):
        queue.enqueue("slow", n)
    eventually(lambda: all((tmp_path / f"begun-{n}-1").exists() for n in (0, 1)))
    # Two of the same number might arrive as one.
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in {128 + signal.SIGTERM, 128 + signal.SIGINT}
    for found in (conn, other):
        assert one(found, "SELECT attempt FROM pgq_waiting") == 0


@pytest.mark.slow
def test_a_single_job_that_is_lost_with_those_of_another_database_does_not_count(
    start: Start, tmp_path: Path, conn: Connection, other: Connection, other_dsn: str, dsn: str, grown_up: None
) -> None:
    """Without retries it would be dead, although the other one may have ended the process."""
    process = start("--dsn", dsn, "--dsn", other_dsn)
    for n, queue in enumerate((Queue(conn), Queue(other))):
        queue.enqueue("slow", n, max_retries=0)
    eventually(lambda: all((tmp_path / f"begun-{n}-1").exists() for n in (0, 1)))
    process.kill()
    rescued = "SELECT state, attempt FROM pgq_jobs WHERE state <> 'running'"
    for found in (conn, other):
        rescuer = WorkerQueue(found)
        eventually(lambda rescuer=rescuer: rescuer.claim(["elsewhere"]) or rescuer.conn.execute(rescued).fetchall())  # type: ignore[misc]
        assert found.execute(rescued).fetchall() == [("waiting", 0)]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--processes", "2"], ["--schedules"]])
def test_a_worker_of_several_drains_all(
    start: Start, tmp_path: Path, conn: Connection, other: Connection, other_dsn: str, dsn: str, options: list[str]
) -> None:
    for n, queue in enumerate((Queue(conn), Queue(other))):
        queue.enqueue("slow", n)
        (tmp_path / f"go-{n}").touch()
    process = start("--dsn", dsn, "--dsn", other_dsn, "--until-empty", *options)
    assert process.wait(60) == 0
    assert [one(found, "SELECT count(*) FROM pgq_jobs") for found in (conn, other)] == [0, 0]


@pytest.mark.slow
def test_a_worker_without_any_database_ends(dsn: str, tmp_path: Path) -> None:
    """The exit code is that of a worker with a single one."""
    (tmp_path / "tasks.py").write_text("import pgq\n\n@pgq.handler('k')\ndef k(job): pass\n")
    gone = [make_conninfo(dsn, host=str(tmp_path), dbname=name) for name in ("a", "b")]
    for options in ([], ["--processes", "2"]):
        done = installed("--dsn", gone[0], "--dsn", gone[1], "worker", "tasks", *options, cwd=tmp_path)
        assert done.returncode == 3
        assert "pgq: cannot reach the database" in done.stderr
