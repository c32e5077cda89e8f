"""What the command line and the driver tell a role that lacks a privilege: which one, and how to get it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import Connection
from support.processes import TASKS, installed, invoke

from pgq import Queue, Views, WorkerQueue

CLERK = "it's a clerk"
# The privilege that each command needs.
NEEDED = {
    "enqueue k": "producer", "list": "reader", "stats": "reader", "ps": "reader", "show 1": "admin", "retry 1": "admin",
    "retry --kind k": "admin", "cancel 1": "admin", "cancel --kind k": "admin", "purge": "admin",
    "purge --dry-run": "admin", "schedules": "reader", "schedule set s @daily k": "admin", "schedule remove s": "admin",
    "schedule pause s": "admin", "schedule resume s": "admin", "schedule run s": "admin", "result 1": "producer",
    "update 1": "admin",
}  # fmt: skip


@pytest.fixture
def clerk(dsn: str, conn: Connection) -> Iterator[str]:
    """A DSN of a role that may use the schema and nothing in it."""
    name = psycopg.sql.Identifier(CLERK).as_string(conn)
    conn.execute(f"DROP ROLE IF EXISTS {name}".encode())
    conn.execute(f"CREATE ROLE {name} LOGIN".encode())
    conn.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    yield make_conninfo(dsn, user=CLERK)
    conn.execute(f"DROP OWNED BY {name}".encode())
    conn.execute(f"DROP ROLE {name}".encode())


@pytest.mark.parametrize("command", NEEDED)
def test_a_command_names_the_privilege_that_its_role_lacks(queue: Queue, clerk: str, command: str) -> None:
    """The hint is a statement that the owner can run as it is, after which the command is not refused."""
    queue.enqueue("k")
    done = invoke(*command.split(), "--dsn", clerk)
    assert done.returncode == 1
    refusal, hint = done.stderr.splitlines()
    assert refusal.startswith("pgq: permission denied for ")
    wanted = f"SELECT pgq_grant('it''s a clerk', '{NEEDED[command]}')"
    assert hint == f"hint: Ask the owner of pgq to run {wanted}."
    queue.conn.execute(wanted.encode())
    assert "permission denied" not in invoke(*command.split(), "--dsn", clerk).stderr


def test_a_reader_is_told_that_only_an_admin_sees_the_arguments(queue: Queue, clerk: str) -> None:
    queue.enqueue("k")
    queue.grant(CLERK, "reader")
    assert ", 'admin')" in invoke("show", "1", "--dsn", clerk).stderr


def test_a_reader_sees_only_the_numbers_of_jobs_in_other_queues(queue: Queue, clerk: str) -> None:
    queue.enqueue("k", queue="theirs")
    queue.enqueue("k", after=[1])
    queue.grant(CLERK, "reader", ["default"])
    assert invoke("show", "2", "--tree", "--dsn", clerk).stdout == "+- 1  hidden or gone\n2  k  blocked  default\n"
    assert "there is no job 1\n" in invoke("show", "1", "--tree", "--dsn", clerk).stderr


@pytest.mark.parametrize("command", ["grant joe reader", "revoke joe reader", "upgrade", "uninstall --force"])
def test_what_only_the_owner_may_do_says_so(queue: Queue, clerk: str, command: str) -> None:
    """Whatever PostgreSQL refuses first."""
    queue.grant(CLERK, "admin")
    if command == "upgrade":
        queue.conn.execute("CREATE OR REPLACE FUNCTION pgq_version() RETURNS text LANGUAGE sql RETURN '0.2.0'")
    done = invoke(*command.split(), "--dsn", clerk)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "hint: Connect as the owner of pgq.", done


@pytest.mark.parametrize("options", [[], ["--schema", "new"]])
def test_an_installation_that_is_refused_says_what_it_takes(conn: Connection, clerk: str, options: list[str]) -> None:
    """In a schema that there is, and in one that is to be created."""
    conn.execute("DROP SCHEMA public CASCADE")
    conn.execute("CREATE SCHEMA public")
    conn.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    done = invoke("install", *options, "--dsn", clerk)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 2)
    assert done.stderr.splitlines()[-1].startswith("hint: Connect as the owner of the database or schema")


def test_a_worker_without_the_privilege_names_it(queue: Queue, clerk: str, tmp_path: Path) -> None:
    """It ends at once, because no time mends that."""
    (tmp_path / "tasks.py").write_text(TASKS)
    done = installed("worker", "tasks", "--drain", "--dsn", clerk, cwd=tmp_path)
    assert done.returncode == 1
    assert "pgq_grant" in done.stderr.splitlines()[-1]


def test_the_driver_notes_the_privilege_at_the_error(queue: Queue, clerk: str) -> None:
    """The error stays that of psycopg; a traceback shows the note."""
    calls: dict[str, Callable[[Connection], object]] = {
        "producer": lambda conn: Queue(conn).enqueue("k"),
        "worker": lambda conn: WorkerQueue(conn).claim(),
        "admin": lambda conn: Queue(conn, schema="public").retry(1),
        "reader": lambda conn: Views(conn).stats(),
    }
    with psycopg.connect(clerk, autocommit=True) as conn:
        for privilege, call in calls.items():
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
                call(conn)
            wanted = f"SELECT pgq_grant('it''s a clerk', '{privilege}')"
            assert caught.value.__notes__ == [f"hint: Ask the owner of pgq to run {wanted}."]
        queue.grant(CLERK, "producer", ["theirs"])
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            Queue(conn).enqueue("k")
        # The server's own hint is the better one.
        assert not hasattr(caught.value, "__notes__")
