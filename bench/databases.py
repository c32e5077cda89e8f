"""The databases of a run: a new one for each measurement, without dead rows of another measurement."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from contender import Contender
from psycopg import sql

Connection = psycopg.Connection[Any]
numbers = itertools.count(1)


def connect(database: str = "", *, autocommit: bool = True) -> Connection:
    """Connect to a database of the server that libpq's variables name."""
    return psycopg.connect(dbname=database or None, autocommit=autocommit, application_name="bench")


@contextmanager
def fresh(contender: Contender) -> Iterator[str]:
    """Create a database with the contender installed; drop it at the end."""
    database = f"bench_{contender.name}_{next(numbers)}"
    name = sql.Identifier(database)
    with connect() as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(name))
    try:
        contender.install(database)
        yield database
    finally:
        with connect() as conn:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@contextmanager
def held_snapshot(database: str) -> Iterator[None]:
    """Hold a snapshot in another session, as a report or a dump does: vacuum cannot remove rows deleted meanwhile."""
    with connect(database, autocommit=False) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.execute("SELECT count(*) FROM pg_class")
        yield
        conn.rollback()


def value(conn: Connection, query: str, params: list[Any] | None = None) -> Any:
    """Return the first value of the first row that a query returns."""
    row = conn.execute(query, params).fetchone()
    return row[0] if row else None
