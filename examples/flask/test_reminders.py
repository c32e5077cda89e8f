"""Tests that roll back and travel in time. `PGQ_DSN=… pytest`, on a server that may create databases"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from flask import Flask, abort
from psycopg.conninfo import make_conninfo

import reminders
from app import create_app
from pgq.testing import Jobs
from transactions import Connection, transaction

TEA = {"text": "tea", "minutes": "120"}
ROWS = "SELECT text, sent_at IS NOT NULL FROM reminder ORDER BY due"


@pytest.fixture(scope="session")
def dsn() -> Iterator[str]:
    """A database for these tests; pgq_jobs installs what it needs there."""
    with psycopg.connect(os.environ["PGQ_DSN"], autocommit=True) as server:
        server.execute("DROP DATABASE IF EXISTS reminders_test")
        server.execute("CREATE DATABASE reminders_test")
        dsn = make_conninfo(os.environ["PGQ_DSN"], dbname="reminders_test")
        with psycopg.connect(dsn) as conn:
            conn.execute(Path("schema.sql").read_bytes())
        yield dsn
        server.execute("DROP DATABASE reminders_test WITH (FORCE)")


@pytest.fixture
def pgq_connection(dsn: str) -> Iterator[Connection]:
    """The connection of a test, which pgq_jobs puts into a transaction that is rolled back."""
    with psycopg.connect(dsn) as conn:
        yield conn


@pytest.fixture
def conn(pgq_connection: Connection, pgq_jobs: Jobs) -> Connection:
    """The same in that transaction, at a time that stands until the test moves it."""
    pgq_jobs.travel("0 seconds")
    return pgq_connection


@pytest.fixture
def app(conn: Connection, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """The application. Each of its transactions is a savepoint of that of the test."""
    monkeypatch.setenv("PGQ_DSN", dsn)
    app = create_app()
    app.extensions["connection"] = lambda: nullcontext(conn)
    return app


def rows(conn: Connection, query: str) -> list[Any]:
    return conn.execute(query.encode()).fetchall()


def test_a_form_that_is_sent_twice_adds_one_reminder(app: Flask, conn: Connection, pgq_jobs: Jobs) -> None:
    form = {"key": str(uuid4()), **TEA}
    for _ in range(2):
        assert app.test_client().post("/reminders", data=form).status_code == 303
    assert rows(conn, ROWS) == [("tea", False)]
    (job,) = pgq_jobs.enqueued("remind", args={"reminder": form["key"]})
    assert job["ripe_at"] == datetime.now(UTC) + timedelta(hours=2)
    page = app.test_client().get("/reminders").text
    assert "<td>tea" in page
    assert f"{job['ripe_at']:%d.%m.%Y %H:%M} UTC" in page
    assert "waiting" in page


@pytest.mark.parametrize(
    "wrong", [{"text": " "}, {"minutes": "soon"}, {"minutes": "-1"}, {"minutes": "nan"}, {"key": "7"}]
)
def test_a_wrong_form_adds_nothing(app: Flask, conn: Connection, wrong: dict[str, str]) -> None:
    form = {"key": str(uuid4()), **TEA, **wrong}
    assert app.test_client().post("/reminders", data=form).status_code == 400
    assert rows(conn, ROWS) == []


def test_a_request_that_fails_leaves_neither_a_reminder_nor_a_job(app: Flask, conn: Connection, pgq_jobs: Jobs) -> None:
    @transaction
    def fails(conn: Connection) -> None:
        reminders.add(conn, uuid4(), "tea", timedelta(hours=2))
        pgq_jobs.enqueued("remind")
        abort(409)

    with app.app_context(), pytest.raises(Exception, match="409"):
        fails()
    assert rows(conn, ROWS) == []
    pgq_jobs.not_enqueued()


def test_a_reminder_is_sent_when_it_is_due_until_the_chat_takes_it(
    app: Flask, conn: Connection, pgq_jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(text: str, key: str) -> None:
        raise ConnectionRefusedError("the chat is down")

    monkeypatch.setattr(reminders, "send", refuse)
    form = {"key": str(uuid4()), **TEA}
    app.test_client().post("/reminders", data=form)
    pgq_jobs.travel("1 hour 59 minutes")
    assert pgq_jobs.drain() == {}
    now = pgq_jobs.travel("1 minute")
    assert pgq_jobs.drain() == {"retry": 1}
    assert rows(conn, ROWS) == [("tea", False)]
    (job,) = pgq_jobs.enqueued("remind")
    assert timedelta(seconds=27) < job["ripe_at"] - now < timedelta(seconds=33)
    assert "waiting: ConnectionRefusedError: the chat is down" in app.test_client().get("/reminders").text

    sent: list[str] = []
    monkeypatch.setattr(reminders, "send", lambda text, key: sent.append(text))
    pgq_jobs.travel("1 minute")
    assert pgq_jobs.drain() == {"done": 1}
    assert sent == ["tea"]
    assert rows(conn, ROWS) == [("tea", True)]
    # The browser goes back, and sends the form again.
    app.test_client().post("/reminders", data=form)
    pgq_jobs.not_enqueued()
