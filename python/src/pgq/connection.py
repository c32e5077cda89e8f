"""Which connections pgq takes, what to pass instead of others, and the cursors by which it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, LiteralString, TypeVar

import psycopg
from psycopg import sql
from psycopg.pq import Format
from psycopg.rows import RowFactory, tuple_row

T = TypeVar("T")

_SESSION: Final = "session.connection().connection.driver_connection"
_CONNECTION: Final = "connection.connection.driver_connection"
_ASYNC_SESSION: Final = "(await (await session.connection()).get_raw_connection()).driver_connection"
_ASYNC_CONNECTION: Final = "(await connection.get_raw_connection()).driver_connection"
_DJANGO: Final = "connection.connection, after connection.ensure_connection()"
# By the package and the name of a class, because none of these packages is imported here.
_SYNC: Final = {
    ("sqlalchemy", "Session"): _SESSION,
    ("sqlalchemy", "scoped_session"): _SESSION,
    ("sqlalchemy", "sessionmaker"): f"{_SESSION}, of a session",
    ("sqlalchemy", "Connection"): _CONNECTION,
    ("sqlalchemy", "Engine"): f"{_CONNECTION}, of a connection",
    ("sqlalchemy", "PoolProxiedConnection"): "its driver_connection",
    ("flask_sqlalchemy", "SQLAlchemy"): "db.session.connection().connection.driver_connection",
    ("django", "ConnectionProxy"): _DJANGO,
    ("django", "BaseDatabaseWrapper"): _DJANGO,
    ("django", "BaseConnectionHandler"): 'connections["default"].connection, after its ensure_connection()',
    ("django", "CursorWrapper"): _DJANGO,
    ("psycopg", "Connection"): "it",
    ("psycopg", "BaseCursor"): "cursor.connection",
    ("psycopg_pool", "ConnectionPool"): "what `with pool.connection() as conn` gives",
    ("builtins", "str"): "psycopg.connect(conninfo)",
    ("contextlib", "_GeneratorContextManager"): "what its `with` statement gives",
}
_ASYNC: Final = {
    ("sqlalchemy", "AsyncSession"): _ASYNC_SESSION,
    ("sqlalchemy", "async_scoped_session"): _ASYNC_SESSION,
    ("sqlalchemy", "async_sessionmaker"): f"{_ASYNC_SESSION}, of a session",
    ("sqlalchemy", "AsyncConnection"): _ASYNC_CONNECTION,
    ("sqlalchemy", "AsyncEngine"): f"{_ASYNC_CONNECTION}, of a connection",
    ("psycopg", "AsyncConnection"): "it",
    ("psycopg", "AsyncCursor"): "cursor.connection",
    ("psycopg_pool", "AsyncConnectionPool"): "what `async with pool.connection() as conn` gives",
    ("contextlib", "_AsyncGeneratorContextManager"): "what its `async with` statement gives",
}
# Of drivers whose connections pgq does not take.
_OTHERS: Final = {
    ("psycopg2", "connection"),
    ("psycopg2", "cursor"),
    ("psycopg2", "AbstractConnectionPool"),
    ("asyncpg", "Connection"),
    ("asyncpg", "PoolConnectionProxy"),
    ("asyncpg", "Pool"),
}


def check_connection(conn: Any) -> None:
    """Raise TypeError for what is no psycopg.Connection, with what to pass instead."""
    if not isinstance(conn, psycopg.Connection):
        raise TypeError(_refusal(conn, "psycopg.Connection"))


def check_async_connection(conn: Any) -> None:
    """Raise TypeError for what is no psycopg.AsyncConnection, with what to pass instead."""
    if not isinstance(conn, psycopg.AsyncConnection):
        raise TypeError(_refusal(conn, "psycopg.AsyncConnection"))


def _refusal(conn: Any, wanted: str) -> str:
    classes = [(cls.__module__, cls.__name__) for cls in type(conn).__mro__]
    module, name = classes[0]
    full = name if module == "builtins" else f"{module}.{name}"
    return f"pgq takes a {wanted}, not a {full}: pass {_instead(classes, wanted)}"


def _instead(classes: list[tuple[str, str]], wanted: str) -> str:
    """Return what to pass. The first class decides that is known, so that a subclass of yours is told the same."""
    for module, name in classes:
        key = (module.partition(".")[0], name)
        if key in _OTHERS:
            return f"a {wanted}, or execute what pgq.statement returns"
        for queue, takes, paths in (
            ("Queue", "psycopg.Connection", _SYNC),
            ("AsyncQueue", "psycopg.AsyncConnection", _ASYNC),
        ):
            if key in paths:
                return paths[key] if takes == wanted else f"a {wanted}; pgq.{queue} takes {paths[key]}"
    return f"the {wanted} behind it"


def binary_cursor(conn: psycopg.Connection[Any], row_factory: RowFactory[T]) -> psycopg.Cursor[T]:
    """
    Return a binary ``psycopg.Cursor``, whatever the connection's cursor_factory: the text form of times and intervals
    depends on DateStyle and IntervalStyle, and some factories take no parameters.
    """
    cursor = psycopg.Cursor(conn, row_factory=row_factory)
    cursor.format = Format.BINARY
    return cursor


def rows_of(
    conn: psycopg.Connection[Any], query: LiteralString | bytes | sql.Composed, parameters: Sequence[Any] | None = None
) -> list[tuple[Any, ...]]:
    """Return the rows of a query as tuples, whatever the connection's factories are."""
    return psycopg.Cursor(conn, row_factory=tuple_row).execute(query, parameters).fetchall()
