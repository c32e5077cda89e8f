"""Tests that roll back, and tests that travel in time. `PGQ_DSN=… pytest`, on a server that may create databases"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from quart import Quart, abort

import pgq
import reminders
from app import create_app
from pgq.testing import Clock, testkit, time_travel
from transactions import Connection, transaction

pytestmark = pytest.mark.anyio
TEA = {"text": "tea", "minutes": "120"}
ROWS = "SELECT text, sent_at IS NOT NULL FROM reminder ORDER BY due"
JOBS = "SELECT kind, state, attempt, ripe_at - pgq_now() FROM pgq_jobs"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


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
def app(dsn: str) -> Quart:
    return create_app(dsn)


@pytest.fixture
async def conn(app: Quart, dsn: str) -> AsyncIterator[Connection]:
    """The connection of all requests of a test, in a transaction that is rolled back at its end."""
    async with await psycopg.AsyncConnection.connect(dsn) as conn:

        @asynccontextmanager
        async def connection() -> AsyncIterator[Connection]:
            # The transaction of a request is a savepoint of this one.
            yield conn

        app.extensions["connection"] = connection
        async with conn.transaction(force_rollback=True):
            yield conn


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is sent, instead of sending it."""
    sent: list[str] = []
    monkeypatch.setattr(reminders, "send", lambda text, key: sent.append(text))
    return sent


@pytest.fixture
def clock(dsn: str) -> Iterator[Clock]:
    """The clock of this process and of the database, which stands until the test moves it."""
    with psycopg.connect(dsn, autocommit=True) as conn, time_travel(conn, to="2030-01-01 12:00") as clock:
        yield clock


async def rows(conn: Connection, query: str) -> list[Any]:
    return await (await conn.execute(query.encode())).fetchall()


async def test_a_form_that_is_sent_twice_adds_one_reminder(app: Quart, conn: Connection, clock: Clock) -> None:
    form = {"key": str(uuid4()), **TEA}
    for _ in range(2):
        assert (await app.test_client().post("/reminders", form=form)).status_code == 303
    assert await rows(conn, ROWS) == [("tea", False)]
    assert await rows(conn, JOBS) == [("remind", "waiting", 0, timedelta(hours=2))]
    page = await (await app.test_client().get("/reminders")).get_data(as_text=True)
    assert "<td>tea" in page
    assert "01.01.2030 14:00 UTC" in page
    assert "waiting" in page


@pytest.mark.parametrize(
    "wrong", [{"text": " "}, {"minutes": "soon"}, {"minutes": "-1"}, {"minutes": "nan"}, {"key": "7"}]
)
async def test_a_wrong_form_adds_nothing(app: Quart, conn: Connection, wrong: dict[str, str]) -> None:
    form = {"key": str(uuid4()), **TEA, **wrong}
    assert (await app.test_client().post("/reminders", form=form)).status_code == 400
    assert await rows(conn, ROWS) == []


async def test_a_request_that_fails_leaves_neither_a_reminder_nor_a_job(app: Quart, conn: Connection) -> None:
    @transaction
    async def fails(conn: Connection) -> None:
        await reminders.add(conn, uuid4(), "tea", timedelta(hours=2))
        assert await rows(conn, ROWS) == [("tea", False)]
        abort(409)

    async with app.app_context():
        with pytest.raises(Exception, match="409"):
            await fails()
    assert await rows(conn, ROWS) == []
    assert await rows(conn, JOBS) == []


@pytest.fixture
async def served(app: Quart, dsn: str) -> AsyncIterator[Connection]:
    """A connection beside the application, which commits; its table is empty before and after the test."""
    async with app.test_app(), await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        yield conn
        await conn.execute("TRUNCATE reminder")


def work(dsn: str) -> None:
    """Run what is ripe."""
    pgq.Worker(dsn, drain=pgq.Drain(until_empty=False)).run()


async def test_a_reminder_is_sent_when_it_is_due(
    app: Quart, served: Connection, dsn: str, clock: Clock, sent: list[str]
) -> None:
    form = {"key": str(uuid4()), **TEA}
    await app.test_client().post("/reminders", form=form)
    clock.tick(timedelta(hours=1, minutes=59))
    work(dsn)
    assert sent == []
    clock.tick(timedelta(minutes=1))
    work(dsn)
    assert sent == ["tea"]
    assert await rows(served, ROWS) == [("tea", True)]
    # The browser goes back, and sends the form again.
    await app.test_client().post("/reminders", form=form)
    assert await rows(served, JOBS) == []


async def test_a_chat_that_fails_is_called_again(
    app: Quart, served: Connection, dsn: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(text: str, key: str) -> None:
        raise ConnectionRefusedError("the chat is down")

    monkeypatch.setattr(reminders, "send", refuse)
    await app.test_client().post("/reminders", form={"key": str(uuid4()), **TEA})
    clock.tick(timedelta(hours=2))
    work(dsn)
    assert await rows(served, ROWS) == [("tea", False)]
    ((_, state, attempt, delay),) = await rows(served, JOBS)
    assert (state, attempt) == ("waiting", 1)
    assert timedelta(seconds=27) < delay < timedelta(seconds=33)
    page = await (await app.test_client().get("/reminders")).get_data(as_text=True)
    assert "waiting: ConnectionRefusedError: the chat is down" in page

    sent: list[str] = []
    monkeypatch.setattr(reminders, "send", lambda text, key: sent.append(text))
    clock.tick(timedelta(minutes=1))
    work(dsn)
    assert sent == ["tea"]
    assert await rows(served, ROWS) == [("tea", True)]
