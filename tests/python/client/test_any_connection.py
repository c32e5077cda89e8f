"""Enqueue through every kind of connection, in the transaction of its owner."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.connections import DRIVERS, Driver
from support.database import Connection, jobs, one

import pgq
from pgq import Enqueued, Queue

# Django has no applications here.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the database during app initialization")
# Every argument that needs a type, and text that a driver may misread.
OPTIONS: dict[str, Any] = {
    "queue": "q", "ripe_at": datetime(2040, 1, 2, 3, tzinfo=UTC), "priority": 3, "max_retries": 4,
    "backoff": timedelta(seconds=90), "backoff_cap": "2 days", "dedup": True, "dedup_key": "100%s :x $1 ?",
    "on_duplicate": "replace", "context": {"a": "%"}, "group_key": "g", "after_failed": "run",
}  # fmt: skip
ARGS = {"to": "ünn", "%s": [":x", "$1", None, 1.5, True, '"', "'", "\\"]}


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest, dsn: str) -> Iterator[Driver]:
    opened = DRIVERS[request.param](dsn)
    yield opened
    opened.close()


def test_a_job_is_enqueued_if_and_only_if_the_transaction_commits(driver: Driver, conn: Connection) -> None:
    """So it is with savepoints, duplicates and errors, and with many jobs."""

    def undone(block: Any) -> None:
        with block:
            driver.enqueue("rolled back")
            raise ZeroDivisionError

    with driver.transaction():
        first = driver.enqueue("k", {"n": 1})
        assert first.created is True
        assert jobs(conn) == []
    assert jobs(conn) == [(first.id, "waiting", 0)]

    with pytest.raises(ZeroDivisionError):
        undone(driver.transaction())
    assert jobs(conn) == [(first.id, "waiting", 0)]

    with driver.transaction():
        with pytest.raises(ZeroDivisionError):
            undone(driver.savepoint())
        many = driver.enqueue_many([{"kind": "k", "args": {"n": n}, "delay": timedelta(days=1)} for n in (1, 2, 3)])
        assert [one.created for one in many] == [False, True, True]
        assert many[0] == driver.enqueue("k", {"n": 1}) == Enqueued(first.id, False)
    assert [job[0] for job in jobs(conn)] == [enqueued.id for enqueued in many]


def test_an_error_has_its_sqlstate(driver: Driver, conn: Connection) -> None:
    """It undoes the savepoint that it is in, and the transaction goes on."""

    def raised(**options: Any) -> Any:
        with pytest.raises(Exception) as caught, driver.savepoint():  # noqa: PT011 - each driver has its own
            driver.enqueue("k", {"n": 1}, **options)
        return caught.value

    with driver.transaction():
        first = driver.enqueue("k", {"n": 1})
        duplicate = raised(on_duplicate="error")
        assert driver.sqlstate(duplicate) == "PGQ04"
        assert isinstance(duplicate, pgq.DuplicateJob) is (
            "Psycopg" in type(driver).__name__ and "2" not in type(driver).__name__
        )
        assert driver.sqlstate(raised(priority=-1)) == "22023"
    assert jobs(conn) == [(first.id, "waiting", 0)]


def test_every_argument_arrives_as_it_was_given(driver: Driver, conn: Connection) -> None:
    """The job is that of Queue, but for its number and its key; so are those of a call for many."""
    first = Queue(conn).enqueue("first")
    options: Any = OPTIONS | {"after": [first.id]}
    with driver.transaction():
        driver.enqueue("k", ARGS, **options)
        driver.enqueue_many([{"kind": "k", "args": ARGS} | options | {"dedup_key": "many"}])
        driver.enqueue("window", None, delay=timedelta(hours=1), dedup_for=timedelta(hours=2), after=[])
    Queue(conn).enqueue("k", ARGS, **options | {"dedup_key": "queue"})
    query = "SELECT to_jsonb(b) - '{id,enqueued_at,dedup_key,signature}'::text[], b.dedup_key FROM pgq_blocked AS b"
    rows = conn.execute(query.encode()).fetchall()
    assert {key for _, key in rows} == {OPTIONS["dedup_key"], "many", "queue"}
    assert [row for row, _ in rows] == [rows[0][0]] * 3
    assert rows[0][0]["args"] == ARGS
    assert one(conn, "SELECT count(*) FROM pgq_need WHERE needs = %s", first.id) == 3
    window = conn.execute(
        "SELECT w.args::text, w.ripe_at BETWEEN now() + interval '50 minutes' AND now() + interval '1 hour', "
        "s.until BETWEEN now() + interval '110 minutes' AND now() + interval '2 hours' "
        "FROM pgq_waiting AS w JOIN pgq_seen AS s USING (signature) WHERE w.kind = 'window'"
    )
    assert window.fetchall() == [("null", True, True)]
