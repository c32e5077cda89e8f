"""Which connections pgq takes, and what to pass instead of others."""

from __future__ import annotations

from typing import Any, Final

import psycopg

_ASYNC: Final = "a psycopg.Connection; in async code, call the SQL functions through the connection that you have"
_PSYCOPG2: Final = (
    "a connection of psycopg 3, from psycopg.connect(); SQLAlchemy uses it for postgresql+psycopg://, and Django where "
    "it is installed"
)
_DJANGO: Final = "connection.connection, after connection.ensure_connection()"
# By the package and the name of a class, because none of these packages is imported here.
_INSTEAD: Final = {
    ("sqlalchemy", "Session"): "session.connection().connection.driver_connection",
    ("sqlalchemy", "scoped_session"): "session.connection().connection.driver_connection",
    ("sqlalchemy", "sessionmaker"): "session.connection().connection.driver_connection, of a session",
    ("sqlalchemy", "Connection"): "connection.connection.driver_connection",
    ("sqlalchemy", "Engine"): "connection.connection.driver_connection, of a connection",
    ("sqlalchemy", "PoolProxiedConnection"): "its driver_connection",
    ("sqlalchemy", "AsyncSession"): _ASYNC,
    ("sqlalchemy", "async_scoped_session"): _ASYNC,
    ("sqlalchemy", "async_sessionmaker"): _ASYNC,
    ("sqlalchemy", "AsyncConnection"): _ASYNC,
    ("sqlalchemy", "AsyncEngine"): _ASYNC,
    ("flask_sqlalchemy", "SQLAlchemy"): "db.session.connection().connection.driver_connection",
    ("django", "ConnectionProxy"): _DJANGO,
    ("django", "BaseDatabaseWrapper"): _DJANGO,
    ("django", "BaseConnectionHandler"): 'connections["default"].connection, after its ensure_connection()',
    ("django", "CursorWrapper"): _DJANGO,
    ("psycopg", "AsyncConnection"): _ASYNC,
    ("psycopg", "AsyncCursor"): _ASYNC,
    ("psycopg", "BaseCursor"): "cursor.connection",
    ("psycopg_pool", "ConnectionPool"): "what `with pool.connection() as conn` gives",
    ("psycopg_pool", "AsyncConnectionPool"): _ASYNC,
    ("psycopg2", "connection"): _PSYCOPG2,
    ("psycopg2", "cursor"): _PSYCOPG2,
    ("psycopg2", "AbstractConnectionPool"): _PSYCOPG2,
    ("asyncpg", "Connection"): _ASYNC,
    ("asyncpg", "PoolConnectionProxy"): _ASYNC,
    ("asyncpg", "Pool"): _ASYNC,
    ("builtins", "str"): "psycopg.connect(conninfo)",
    ("contextlib", "_GeneratorContextManager"): "what its `with` statement gives",
}


def check_connection(conn: Any) -> None:
    """Raise TypeError for what is no psycopg.Connection, with what to pass instead."""
    if isinstance(conn, psycopg.Connection):
        return
    classes = [(cls.__module__, cls.__name__) for cls in type(conn).__mro__]
    module, name = classes[0]
    full = name if module == "builtins" else f"{module}.{name}"
    # The first class decides that is known, so that a subclass of yours is told the same.
    known = (_INSTEAD.get((module.partition(".")[0], name)) for module, name in classes)
    instead = next((one for one in known if one is not None), "the psycopg.Connection behind it")
    raise TypeError(f"pgq takes a psycopg.Connection, not a {full}: pass {instead}")
