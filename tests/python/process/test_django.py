"""Handlers that use Django's connection: a lost one costs no further job, and completes jobs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict
from support.database import Connection, jobs
from support.processes import Start
from support.workers import drain

from pgq import Handlers, Queue
from pgq.views import Views
from pgq.worker.loop import Loop

SETTINGS = """
import django.conf

django.conf.settings.configure(
    USE_TZ=True, TIME_ZONE="Asia/Tokyo",
    DATABASES={{"default": {{
        "ENGINE": "django.db.backends.postgresql", "NAME": {dbname!r}, "USER": {user!r}, "HOST": {host!r},
        "PORT": {port!r}, "CONN_MAX_AGE": {age!r}, "CONN_HEALTH_CHECKS": True,
    }}}},
)
"""
TASKS = """
from django.db import connection, transaction

import pgq


def backend():
    connection.ensure_connection()
    return connection.connection.info.backend_pid


def write(job):
    connection.cursor().execute("INSERT INTO effect VALUES (%s, %s)", [job.kind, backend()])


@pgq.handler("loses it")
def lose(job):
    # The error is met: as after a restart of the server in the middle of a handler.
    connection.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())")


@pgq.handler("cut", transaction=True)
def cut(job, conn):
    # No error is met: as after a restart between two handlers.
    conn.execute("SELECT pg_terminate_backend(%s, 5000)", [backend()])


@pgq.handler("plain")
def plain(job):
    write(job)


@pgq.handler("transactional", transaction=True)
def transactional(job, conn):
    write(job)


@pgq.handler("batch", batch=10)
def batch(jobs):
    for job in jobs:
        write(job)


@pgq.handler("transactional batch", batch=10, transaction=True)
def transactional_batch(job, conn):
    write(job)


@pgq.handler("own")
def own(job):
    with transaction.atomic():
        write(job)
        job.complete(connection.connection, pgq.Queue(connection.connection).enqueue("later", queue="other").created)


@pgq.handler("own, rolled back")
def rolled_back(job):
    with transaction.atomic():
        write(job)
        job.complete(connection.connection)
        raise ValueError("undo")
"""
KINDS = ("plain", "transactional", "batch", "transactional batch", "own")


@pytest.mark.happens("loses Django's connection")
@pytest.mark.parametrize("age", [0, None], ids=["default", "persistent"])
@pytest.mark.parametrize("concurrency", ["1", "2"])
def test_the_job_after_a_lost_connection_of_django_works(
    conn: Connection, queue: Queue, dsn: str, start: Start, tmp_path: Path, age: int | None, concurrency: str
) -> None:
    """In each mode, whether Django has met the loss or not."""
    conn.execute("CREATE TABLE effect (kind text, backend integer)")
    for loss in ("loses it", "cut"):
        for kind in KINDS:
            queue.enqueue(loss, dedup=False, max_retries=0)
            queue.enqueue(kind, dedup=False, max_retries=0)
    (tmp_path / "tasks.py").write_text(SETTINGS.format(**conninfo_to_dict(dsn), age=age) + TASKS)
    assert start("--drain", "--concurrency", concurrency).wait(60) == 0
    states = conn.execute("SELECT DISTINCT kind, state FROM pgq_jobs ORDER BY kind").fetchall()
    assert states == [("later", "waiting"), ("loses it", "dead"), ("own", "done")]
    effects = conn.execute("SELECT kind, count(*) FROM effect GROUP BY kind ORDER BY kind").fetchall()
    assert effects == [(kind, 2) for kind in sorted(KINDS)]


@pytest.mark.parametrize(("age", "connections"), [(0, 3), (None, 1)], ids=["default", "persistent"])
def test_a_connection_of_django_is_kept_for_conn_max_age(
    conn: Connection, queue: Queue, dsn: str, start: Start, tmp_path: Path, age: int | None, connections: int
) -> None:
    """As in Django's requests: by default each job opens its own."""
    conn.execute("CREATE TABLE effect (kind text, backend integer)")
    (tmp_path / "tasks.py").write_text(SETTINGS.format(**conninfo_to_dict(dsn), age=age) + TASKS)
    for _ in range(3):
        queue.enqueue("plain", dedup=False)
    assert start("--drain").wait(60) == 0
    assert conn.execute("SELECT count(*), count(DISTINCT backend) FROM effect").fetchall() == [(3, connections)]


def test_a_job_is_completed_in_an_atomic_block(
    conn: Connection, queue: Queue, dsn: str, start: Start, tmp_path: Path
) -> None:
    """Its effects and the completion commit together, or neither does."""
    conn.execute("CREATE TABLE effect (kind text, backend integer)")
    (tmp_path / "tasks.py").write_text(SETTINGS.format(**conninfo_to_dict(dsn), age=None) + TASKS)
    done = queue.enqueue("own")
    undone = queue.enqueue("own, rolled back")
    assert start("--drain").wait(60) == 0
    assert [kind for (kind,) in conn.execute("SELECT kind FROM effect")] == ["own"]
    assert jobs(conn)[:2] == [(done.id, "done", 1), (undone.id, "waiting", 1)]
    assert Views(conn).job(done.id)["result"] == "true"


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The calls of the function that closes old connections, in modules that stand for Django's."""
    calls: list[bool] = []
    db: Any = ModuleType("django.db")
    db.close_old_connections = lambda: calls.append(True)
    conf: Any = ModuleType("django.conf")
    conf.settings = SimpleNamespace(configured=True)
    monkeypatch.setitem(sys.modules, "django.db", db)
    monkeypatch.setitem(sys.modules, "django.conf", conf)
    return calls


@pytest.mark.parametrize("configured", [True, False])
def test_django_is_left_alone_where_it_is_not_set_up(
    queue: Queue, loop: Loop, handlers: Handlers, called: list[bool], configured: bool
) -> None:
    """A library may import it only in part."""
    sys.modules["django.conf"].settings.configured = configured
    seen: list[int] = []
    handlers.handler("k")(lambda job: seen.append(len(called)))
    queue.enqueue("k")
    drain(loop)
    assert (seen, len(called)) == (([1], 2) if configured else ([0], 0))


def test_an_error_of_django_fails_no_job(
    queue: Queue, loop: Loop, handlers: Handlers, called: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; the effects of the handler have happened."""

    def fail() -> None:
        raise RuntimeError("no such alias")

    sys.modules["django.db"].close_old_connections = fail  # type: ignore[attr-defined]
    handlers.handler("k")(lambda job: None)
    queue.enqueue("k")
    with caplog.at_level(logging.WARNING, "pgq"):
        drain(loop)
    assert jobs(queue.conn) == []
    assert caplog.messages == ["cannot close old connections of Django: no such alias"] * 2
