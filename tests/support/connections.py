"""
The connections that applications have. Each enqueues in a transaction of its own, psycopg's by Queue and AsyncQueue,
the others by statements.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, TypeVar

import asyncpg
import django.conf
import django.db
import django.db.transaction
import psycopg
import psycopg2
import sqlalchemy
import sqlalchemy.ext.asyncio
import sqlalchemy.orm
from django.utils.functional import empty
from psycopg.conninfo import conninfo_to_dict

import pgq
from pgq import AsyncQueue, Enqueued, NewJob, Queue, Statement
from pgq.statement import Paramstyle

T = TypeVar("T")


class Driver:
    """A connection of a driver."""

    paramstyle: Paramstyle = "format"

    def transaction(self) -> AbstractContextManager[Any]:
        """Commit at the end of a block, or roll back if it raises."""
        raise NotImplementedError

    def savepoint(self) -> AbstractContextManager[Any]:
        """Undo a block inside of a transaction if it raises."""
        raise NotImplementedError

    def execute(self, statement: Statement) -> list[Any]:
        """Execute a statement and return its rows."""
        raise NotImplementedError

    def sqlstate(self, error: Any) -> str:
        """Return the SQLSTATE of what a call has raised."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection."""
        raise NotImplementedError

    def enqueue(self, kind: str, args: Any = None, **options: Any) -> Enqueued:
        """Enqueue a job."""
        (row,) = self.execute(pgq.statement(kind, args, **options, paramstyle=self.paramstyle))
        return Enqueued(*row)

    def enqueue_many(self, jobs: list[NewJob]) -> list[Enqueued]:
        """Enqueue jobs."""
        return [Enqueued(*row) for row in self.execute(pgq.statement_many(jobs, paramstyle=self.paramstyle))]


class OfPsycopg(Driver):
    """psycopg 3, with pgq.Queue."""

    def __init__(self, dsn: str) -> None:
        self.conn = psycopg.connect(dsn)

    def transaction(self) -> AbstractContextManager[Any]:
        return self.conn.transaction()

    savepoint = transaction

    def enqueue(self, kind: str, args: Any = None, **options: Any) -> Enqueued:
        return Queue(self.conn).enqueue(kind, args, **options)

    def enqueue_many(self, jobs: list[NewJob]) -> list[Enqueued]:
        return Queue(self.conn).enqueue_many(jobs)

    def sqlstate(self, error: Any) -> str:
        return str(error.sqlstate)

    def close(self) -> None:
        self.conn.close()


class OfPsycopg2(Driver):
    """psycopg2, whose connection is in a transaction from its first statement on."""

    def __init__(self, dsn: str) -> None:
        self.conn = psycopg2.connect(dsn)

    def transaction(self) -> AbstractContextManager[Any]:
        block: AbstractContextManager[Any] = self.conn
        return block

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        cursor = self.conn.cursor()
        cursor.execute("SAVEPOINT before")
        try:
            yield
        except BaseException:
            cursor.execute("ROLLBACK TO before")
            raise

    def execute(self, statement: Statement) -> list[Any]:
        with self.conn.cursor() as cursor:
            cursor.execute(*statement)
            rows: list[Any] = cursor.fetchall()
            return rows

    def sqlstate(self, error: Any) -> str:
        return str(error.pgcode)

    def close(self) -> None:
        self.conn.close()


@contextmanager
def django_of(dsn: str) -> Iterator[None]:
    """Set Django up, with django.db.connection to a database, for the time of a block."""
    given = conninfo_to_dict(dsn)
    database = {
        "ENGINE": "django.db.backends.postgresql", "NAME": given["dbname"], "USER": given["user"],
        "HOST": given["host"], "PORT": given["port"],
    }  # fmt: skip
    settings = django.conf.UserSettingsHolder(django.conf.global_settings)
    settings.DATABASES = {"default": database}
    django.conf.settings._wrapped = settings
    django.db.connections.settings = django.db.connections.configure_settings(None)
    try:
        yield
    finally:
        django.db.connections.close_all()
        # There is one if it was used.
        with suppress(AttributeError):
            del django.db.connections["default"]
        del django.db.connections.settings
        django.conf.settings._wrapped = empty


class OfDjango(Driver):
    """django.db.connection."""

    def __init__(self, dsn: str) -> None:
        self.set_up = ExitStack()
        self.set_up.enter_context(django_of(dsn))

    def transaction(self) -> AbstractContextManager[Any]:
        block: AbstractContextManager[Any] = django.db.transaction.atomic()
        return block

    savepoint = transaction

    def execute(self, statement: Statement) -> list[Any]:
        with django.db.connection.cursor() as cursor:
            cursor.execute(*statement)
            rows: list[Any] = cursor.fetchall()
            return rows

    def sqlstate(self, error: Any) -> str:
        return str(error.__cause__.sqlstate)

    def close(self) -> None:
        self.set_up.close()


class OfSQLAlchemy(Driver):
    """A Connection or a Session of SQLAlchemy."""

    def __init__(self, dsn: str, driver: str, session: bool) -> None:
        self.engine = sqlalchemy.create_engine(url(dsn, driver), poolclass=sqlalchemy.NullPool)
        self.owner: Any = sqlalchemy.orm.Session(self.engine) if session else self.engine.connect()

    def transaction(self) -> AbstractContextManager[Any]:
        block: AbstractContextManager[Any] = self.owner.begin()
        return block

    def savepoint(self) -> AbstractContextManager[Any]:
        block: AbstractContextManager[Any] = self.owner.begin_nested()
        return block

    def execute(self, statement: Statement) -> list[Any]:
        connection = self.owner.connection() if isinstance(self.owner, sqlalchemy.orm.Session) else self.owner
        return list(connection.exec_driver_sql(*statement))

    def sqlstate(self, error: Any) -> str:
        return str(getattr(error.orig, "sqlstate", None) or error.orig.pgcode)

    def close(self) -> None:
        self.owner.close()


class AsyncDriver(Driver):
    """A connection for async code, each call of which runs in an event loop of its own."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()

    def run(self, awaitable: Awaitable[T]) -> T:
        """Return what an awaitable returns."""

        async def wait() -> T:
            return await awaitable

        return self.runner.run(wait())

    @contextmanager
    def block(self, begin: Callable[[], AbstractAsyncContextManager[Any]]) -> Iterator[None]:
        """Run a block inside of an async one."""

        async def enter() -> AbstractAsyncContextManager[Any]:
            manager = begin()
            await manager.__aenter__()
            return manager

        manager = self.run(enter())
        try:
            yield
        except BaseException as error:
            self.run(manager.__aexit__(type(error), error, error.__traceback__))
            raise
        self.run(manager.__aexit__(None, None, None))


class OfAsyncPsycopg(AsyncDriver):
    """psycopg 3 in async code, with pgq.AsyncQueue."""

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self.conn = self.run(psycopg.AsyncConnection.connect(dsn))

    def transaction(self) -> AbstractContextManager[Any]:
        return self.block(self.conn.transaction)

    savepoint = transaction

    def enqueue(self, kind: str, args: Any = None, **options: Any) -> Enqueued:
        return self.run(AsyncQueue(self.conn).enqueue(kind, args, **options))

    def enqueue_many(self, jobs: list[NewJob]) -> list[Enqueued]:
        return self.run(AsyncQueue(self.conn).enqueue_many(jobs))

    def sqlstate(self, error: Any) -> str:
        return str(error.sqlstate)

    def close(self) -> None:
        self.run(self.conn.close())
        self.runner.close()


class OfAsyncpg(AsyncDriver):
    """asyncpg."""

    paramstyle = "numeric_dollar"

    def __init__(self, dsn: str) -> None:
        super().__init__()
        given = conninfo_to_dict(dsn)
        self.conn = self.run(
            asyncpg.connect(host=given["host"], port=given["port"], user=given["user"], database=given["dbname"])
        )
        # As applications do: it would encode text once more.
        codec = {"schema": "pg_catalog", "encoder": json.dumps, "decoder": json.loads}
        self.run(self.conn.set_type_codec("jsonb", **codec))

    def transaction(self) -> AbstractContextManager[Any]:
        return self.block(self.conn.transaction)

    savepoint = transaction

    def execute(self, statement: Statement) -> list[Any]:
        rows: list[Any] = self.run(self.conn.fetch(statement.sql, *statement.params))
        return rows

    def sqlstate(self, error: Any) -> str:
        return str(error.sqlstate)

    def close(self) -> None:
        self.run(self.conn.close())
        self.runner.close()


class OfAsyncSQLAlchemy(AsyncDriver):
    """An AsyncConnection or an AsyncSession of SQLAlchemy."""

    def __init__(self, dsn: str, driver: str, session: bool) -> None:
        super().__init__()
        self.engine = sqlalchemy.ext.asyncio.create_async_engine(url(dsn, driver), poolclass=sqlalchemy.NullPool)
        self.owner: Any = (
            sqlalchemy.ext.asyncio.AsyncSession(self.engine) if session else self.run(self.engine.connect().start())
        )
        self.paramstyle = "numeric_dollar" if driver == "asyncpg" else "pyformat"

    def transaction(self) -> AbstractContextManager[Any]:
        return self.block(self.owner.begin)

    def savepoint(self) -> AbstractContextManager[Any]:
        return self.block(self.owner.begin_nested)

    def execute(self, statement: Statement) -> list[Any]:
        async def execute() -> list[Any]:
            session = isinstance(self.owner, sqlalchemy.ext.asyncio.AsyncSession)
            connection = await self.owner.connection() if session else self.owner
            return list(await connection.exec_driver_sql(*statement))

        return self.run(execute())

    def sqlstate(self, error: Any) -> str:
        return str(error.orig.sqlstate)

    def close(self) -> None:
        self.run(self.owner.close())
        self.runner.close()


def url(dsn: str, driver: str) -> sqlalchemy.URL:
    """Return a URL of SQLAlchemy for a connection string."""
    given = conninfo_to_dict(dsn)
    host = {"host": str(given["host"]), "port": str(given["port"])}
    return sqlalchemy.URL.create(
        f"postgresql+{driver}", username=str(given["user"]), database=str(given["dbname"]), query=host
    )


DRIVERS: dict[str, Callable[[str], Driver]] = {
    "psycopg": OfPsycopg,
    "psycopg in async code": OfAsyncPsycopg,
    "psycopg2": OfPsycopg2,
    "asyncpg": OfAsyncpg,
    "Django": OfDjango,
    "SQLAlchemy connection, psycopg": lambda dsn: OfSQLAlchemy(dsn, "psycopg", session=False),
    "SQLAlchemy session, psycopg": lambda dsn: OfSQLAlchemy(dsn, "psycopg", session=True),
    "SQLAlchemy connection, psycopg2": lambda dsn: OfSQLAlchemy(dsn, "psycopg2", session=False),
    "SQLAlchemy session, psycopg2": lambda dsn: OfSQLAlchemy(dsn, "psycopg2", session=True),
    "SQLAlchemy async connection, psycopg": lambda dsn: OfAsyncSQLAlchemy(dsn, "psycopg", session=False),
    "SQLAlchemy async session, psycopg": lambda dsn: OfAsyncSQLAlchemy(dsn, "psycopg", session=True),
    "SQLAlchemy async connection, asyncpg": lambda dsn: OfAsyncSQLAlchemy(dsn, "asyncpg", session=False),
    "SQLAlchemy async session, asyncpg": lambda dsn: OfAsyncSQLAlchemy(dsn, "asyncpg", session=True),
}
