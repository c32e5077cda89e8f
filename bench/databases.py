"""Databases of a run: one for each measurement, so that none inherits the dead rows of another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from queues import Contender

Connection = psycopg.Connection[Any]
numbers = itertools.count(1)


def connect(database: str = "", *, autocommit: bool = True) -> Connection:
    """A connection to a database of the server that libpq's variables name."""
    return psycopg.connect(dbname=database or None, autocommit=autocommit, application_name="bench")


@contextmanager
def fresh(contender: Contender) -> Iterator[str]:
    """A new database with the contender installed; it is gone afterwards."""
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
    """Meanwhile a session keeps a snapshot, as a report or a dump does: no row that dies can be removed."""
    with connect(database, autocommit=False) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.execute("SELECT count(*) FROM pg_class")
        yield
        conn.rollback()


def value(conn: Connection, query: str, params: list[Any] | None = None) -> Any:
    """The one value that a query answers."""
    row = conn.execute(query, params).fetchone()
    return row[0] if row else None
