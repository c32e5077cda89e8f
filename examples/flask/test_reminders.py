"""Tests that roll back and travel in time. `PGQ_DSN=… pytest`, on a server that may create databases"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from flask import Flask, abort
from psycopg.conninfo import make_conninfo

import pgq
import reminders
from app import create_app
from pgq.testing import Clock, testkit, time_travel
from transactions import Connection, transaction

TEA = {"text": "tea", "minutes": "120"}
ROWS = "SELECT text, sent_at IS NOT NULL FROM reminder ORDER BY due"
JOBS = "SELECT kind, state, attempt, ripe_at - pgq_now() FROM pgq_jobs"


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """A database for these tests."""
    with psycopg.connect(os.environ["PGQ_DSN"], autocommit=True) as server:
        server.execute("DROP DATABASE IF EXISTS reminders_test")
        server.execute("CREATE DATABASE reminders_test")
        dsn = make_conninfo(os.environ["PGQ_DSN"], dbname="reminders_test")
        with psycopg.connect(dsn, autocommit=True) as conn:
            pgq.install(conn)
            conn.execute(testkit())
            conn.execute(Path("schema.sql").read_bytes())
        yield dsn
        server.execute("DROP DATABASE reminders_test WITH (FORCE)")


@pytest.fixture
def conn(dsn: str) -> Iterator[Connection]:
    """The connection of a test, in a transaction that is rolled back at its end."""
    with psycopg.connect(dsn) as conn, conn.transaction(force_rollback=True):
        yield conn


@pytest.fixture
def app(conn: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The application. Each of its transactions is a savepoint of that of the test."""
    monkeypatch.setenv("PGQ_DSN", dsn)
    app = create_app()
    app.extensions["connection"] = lambda: nullcontext(conn)
    return app


@pytest.fixture
def clock(conn: Connection) -> Iterator[Clock]:
    """The clock of this process and of the database, which stands until the test moves it."""
    with time_travel(conn, to="2030-01-01 12:00") as clock:
        yield clock


def work(conn: Connection) -> int:
    """Run what is ripe, as a worker does, but in the transaction of the test; return how many jobs there were."""
    queue = pgq.WorkerQueue(conn)
    jobs = queue.claim()
    for job in jobs:
        try:
            with conn.transaction():
                reminders.remind(**job.args, job=job, conn=conn)
                queue.complete(job)
        except OSError as error:
            queue.fail(job, str(error))
    return len(jobs)


def rows(conn: Connection, query: str) -> list[Any]:
    return conn.execute(query.encode()).fetchall()


def test_a_form_that_is_sent_twice_adds_one_reminder(app: Flask, conn: Connection, clock: Clock) -> None:
    form = {"key": str(uuid4()), **TEA}
    for _ in range(2):
        assert app.test_client().post("/reminders", data=form).status_code == 303
    assert rows(conn, ROWS) == [("tea", False)]
    assert rows(conn, JOBS) == [("remind", "waiting", 0, timedelta(hours=2))]
    page = app.test_client().get("/reminders").text
    assert "<td>tea" in page
    assert "01.01.2030 14:00 UTC" in page
    assert "waiting" in page


@pytest.mark.parametrize(
    "wrong", [{"text": " "}, {"minutes": "soon"}, {"minutes": "-1"}, {"minutes": "nan"}, {"key": "7"}]
)
def test_a_wrong_form_adds_nothing(app: Flask, conn: Connection, wrong: dict[str, str]) -> None:
    form = {"key": str(uuid4()), **TEA, **wrong}
    assert app.test_client().post("/reminders", data=form).status_code == 400
    assert rows(conn, ROWS) == []


def test_a_request_that_fails_leaves_neither_a_reminder_nor_a_job(app: Flask, conn: Connection) -> None:
    @transaction
    def fails(conn: Connection) -> None:
        reminders.add(conn, uuid4(), "tea", timedelta(hours=2))
        assert rows(conn, ROWS) == [("tea", False)]
        abort(409)

    with app.app_context(), pytest.raises(Exception, match="409"):
        fails()
    assert rows(conn, ROWS) == []
    assert rows(conn, JOBS) == []


def test_a_reminder_is_sent_when_it_is_due_until_the_chat_takes_it(
    app: Flask, conn: Connection, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(text: str, key: str) -> None:
        raise ConnectionRefusedError("the chat is down")

    monkeypatch.setattr(reminders, "send", refuse)
    form = {"key": str(uuid4()), **TEA}
    app.test_client().post("/reminders", data=form)
    clock.tick(timedelta(hours=1, minutes=59))
    assert work(conn) == 0
    clock.tick(timedelta(minutes=1))
    assert work(conn) == 1
    assert rows(conn, ROWS) == [("tea", False)]
    ((_, state, attempt, delay),) = rows(conn, JOBS)
    assert (state, attempt) == ("waiting", 1)
    assert timedelta(seconds=27) < delay < timedelta(seconds=33)
    assert "waiting: the chat is down" in app.test_client().get("/reminders").text

    sent: list[str] = []
    monkeypatch.setattr(reminders, "send", lambda text, key: sent.append(text))
    clock.tick(timedelta(minutes=1))
    assert work(conn) == 1
    assert sent == ["tea"]
    assert rows(conn, ROWS) == [("tea", True)]
    # The browser goes back, and sends the form again.
    app.test_client().post("/reminders", data=form)
    assert rows(conn, JOBS) == []
