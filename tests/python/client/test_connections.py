"""Which connections pgq takes: those of psycopg 3, also from SQLAlchemy, Django and pools; others are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import asyncpg
import psycopg
import psycopg2
import psycopg2.extras
import psycopg2.pool
import psycopg_pool
import pytest
import sqlalchemy
import sqlalchemy.ext.asyncio
import sqlalchemy.orm
from django.db.backends.postgresql.base import DatabaseWrapper
from django.utils.connection import ConnectionProxy
from psycopg.conninfo import conninfo_to_dict
from support.database import Connection, jobs

import pgq
from pgq import Handlers, Job, Queue, Views, WorkerQueue
from pgq.schema.upgrade import upgrade_steps
from pgq.worker.loop import Loop

OF_SESSION = "(await (await session.connection()).get_raw_connection()).driver_connection"
OTHER = "or execute what pgq.statement returns"


def engine(dsn: str, driver: str = "psycopg") -> sqlalchemy.Engine:
    """Return an engine of SQLAlchemy."""
    url = sqlalchemy.URL.create(f"postgresql+{driver}", query=_query(dsn))
    return sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)


def _query(dsn: str) -> dict[str, str]:
    return {name: str(value) for name, value in conninfo_to_dict(dsn).items()}


def django(dsn: str) -> DatabaseWrapper:
    """Return a connection of Django."""
    given = conninfo_to_dict(dsn)
    settings = {
        "NAME": given["dbname"], "USER": given["user"], "PASSWORD": "", "HOST": given["host"], "PORT": given["port"],
        "OPTIONS": {}, "TIME_ZONE": None, "AUTOCOMMIT": True, "CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": False,
        "ATOMIC_REQUESTS": False, "TEST": {"NAME": None},
    }  # fmt: skip
    return DatabaseWrapper(settings)


class Mine(sqlalchemy.orm.Session):
    """A subclass, as an application has."""


@contextmanager
def lent(conn: Connection) -> Any:
    """Yield a connection, as the functions of many applications do."""
    yield conn


def aio(make: Callable[[], Any]) -> Any:
    """Return what a coroutine function returns, and close it if it is a connection or a pool."""

    async def run() -> Any:
        made = await make()
        await made.close()
        return made

    return asyncio.run(run())


SESSION = "session.connection().connection.driver_connection"
# What is refused, and what the error says to pass.
REFUSED: dict[str, tuple[Callable[[str], Any], str]] = {
    "SQLAlchemy session": (lambda dsn: sqlalchemy.orm.Session(engine(dsn)), SESSION),
    "subclass of a session": (lambda dsn: Mine(engine(dsn)), SESSION),
    "scoped session": (lambda dsn: sqlalchemy.orm.scoped_session(sqlalchemy.orm.sessionmaker(engine(dsn))), SESSION),
    "maker of sessions": (lambda dsn: sqlalchemy.orm.sessionmaker(engine(dsn)), SESSION),
    "SQLAlchemy connection": (lambda dsn: engine(dsn).connect(), "connection.connection.driver_connection"),
    "SQLAlchemy engine": (engine, "connection.connection.driver_connection, of a connection"),
    "raw connection": (lambda dsn: engine(dsn).raw_connection(), "its driver_connection"),
    "SQLAlchemy async engine": (
        lambda dsn: sqlalchemy.ext.asyncio.AsyncEngine(engine(dsn, "asyncpg")),
        "a psycopg.Connection; pgq.AsyncQueue takes (await connection.get_raw_connection()).driver_connection, of a",
    ),
    "SQLAlchemy async session": (lambda dsn: sqlalchemy.ext.asyncio.AsyncSession(), OF_SESSION),
    "Django connection": (django, "connection.connection, after connection.ensure_connection()"),
    "django.db.connection": (
        lambda dsn: ConnectionProxy({"default": django(dsn)}, "default"),
        "connection.connection, after connection.ensure_connection()",
    ),
    "psycopg2": (psycopg2.connect, f"a psycopg.Connection, {OTHER}"),
    "psycopg2 of another class": (
        lambda dsn: psycopg2.connect(dsn, connection_factory=psycopg2.extras.LoggingConnection), OTHER
    ),
    "psycopg2 cursor": (lambda dsn: psycopg2.connect(dsn).cursor(), OTHER),
    "psycopg2 pool": (lambda dsn: psycopg2.pool.SimpleConnectionPool(0, 1, dsn), OTHER),
    "psycopg async": (lambda dsn: aio(lambda: psycopg.AsyncConnection.connect(dsn)), "pgq.AsyncQueue takes it"),
    "psycopg cursor": (lambda dsn: psycopg.connect(dsn).cursor(), "cursor.connection"),
    "pool": (lambda dsn: psycopg_pool.ConnectionPool(dsn, open=False), "what `with pool.connection() as conn` gives"),
    "async pool": (
        lambda dsn: psycopg_pool.AsyncConnectionPool(dsn, open=False),
        "pgq.AsyncQueue takes what `async with pool.connection() as conn` gives",
    ),
    "asyncpg": (lambda dsn: aio(lambda: asyncpg.connect(**_asyncpg(dsn))), OTHER),
    "asyncpg pool": (lambda dsn: aio(lambda: asyncpg.create_pool(**_asyncpg(dsn), min_size=0)), OTHER),
    "conninfo": (lambda dsn: dsn, "psycopg.connect(conninfo)"),
    "context": (lambda dsn: lent(psycopg.connect(dsn)), "what its `with` statement gives"),
    "None": (lambda dsn: None, "the psycopg.Connection behind it"),
    "class": (lambda dsn: psycopg.Connection, "the psycopg.Connection behind it"),
    "function": (lambda dsn: psycopg.connect, "the psycopg.Connection behind it"),
}  # fmt: skip


def _asyncpg(dsn: str) -> dict[str, Any]:
    given = conninfo_to_dict(dsn)
    return {"host": given["host"], "port": given["port"], "user": given["user"], "database": given["dbname"]}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_connection_of_psycopg_is_refused_at_once(dsn: str, name: str) -> None:
    """Everything that takes a connection raises TypeError, which names what to pass instead."""
    make, instead = REFUSED[name]
    given = make(dsn)
    uses: list[Callable[[Any], Any]] = [
        Queue, WorkerQueue, Views, pgq.install, pgq.uninstall, pgq.upgrade, lambda conn: list(upgrade_steps(conn))
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(TypeError, match=r"^pgq takes a psycopg\.Connection, not a ") as caught:
            use(given)
        assert instead in str(caught.value).partition(": pass ")[2]


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("SQLAlchemy session", f"a psycopg.AsyncConnection; pgq.Queue takes {SESSION}"),
        ("SQLAlchemy async session", OF_SESSION),
        ("psycopg2", f"a psycopg.AsyncConnection, {OTHER}"),
        ("psycopg cursor", "a psycopg.AsyncConnection; pgq.Queue takes cursor.connection"),
        ("async pool", "what `async with pool.connection() as conn` gives"),
        ("asyncpg", f"a psycopg.AsyncConnection, {OTHER}"),
        ("None", "the psycopg.AsyncConnection behind it"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_async_connection_of_psycopg_is_refused_at_once(dsn: str, name: str, instead: str) -> None:
    """The error names the class that takes a connection of the other kind."""
    with pytest.raises(TypeError, match=r"^pgq takes a psycopg\.AsyncConnection, not a ") as caught:
        pgq.AsyncQueue(REFUSED[name][0](dsn))
    assert str(caught.value).partition(": pass ")[2] == instead


def test_a_job_is_not_completed_through_another_connection(
    conn: Connection, queue: Queue, loop: Loop, handlers: Handlers, dsn: str
) -> None:
    """The error fails the job, unless the handler catches it."""

    @handlers.handler("k")
    def work(job: Job) -> None:
        with sqlalchemy.orm.Session(engine(dsn)) as session:
            job.complete(session)  # type: ignore[arg-type]

    enqueued = queue.enqueue("k")
    loop.turn()
    loop.turn()
    assert jobs(conn) == [(enqueued.id, "waiting", 1)]
    assert SESSION in Views(conn).job(enqueued.id)["errors"][0]["error"]


def check_transactions(conn: Connection, begin: Callable[[], Any], driver: Callable[[], Any]) -> None:
    """Check that a queue works through the driver's connection, and commits and rolls back with its owner."""
    with begin():
        enqueued = WorkerQueue(driver()).enqueue("k", {"to": "ann"})
        assert enqueued.created
        assert jobs(conn) == []
    assert jobs(conn) == [(enqueued.id, "waiting", 0)]

    def claim_and_fail() -> None:
        with begin():
            queue = WorkerQueue(driver())
            (job,) = queue.claim()
            assert (job.args, job.attempt) == ({"to": "ann"}, 1)
            queue.complete(job, {"n": 1})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        claim_and_fail()
    assert jobs(conn) == [(enqueued.id, "waiting", 0)]


def test_what_the_error_names_of_sqlalchemy_works(conn: Connection, dsn: str) -> None:
    """A job is enqueued in the transaction of a session or of a connection."""
    with sqlalchemy.orm.Session(engine(dsn)) as session:

        def driver() -> Any:
            return session.connection().connection.driver_connection

        check_transactions(conn, session.begin, driver)
    conn.execute("DELETE FROM pgq_waiting")
    with engine(dsn).connect() as connection:

        def raw() -> Any:
            connection.execute(sqlalchemy.text("SELECT 1"))
            return connection.connection.driver_connection

        check_transactions(conn, connection.begin, raw)


def test_what_the_error_names_of_a_pool_works(conn: Connection, dsn: str) -> None:
    """The pool commits at the end of the block."""
    with psycopg_pool.ConnectionPool(dsn, min_size=1) as pool, pool.connection() as lent:
        enqueued = Queue(lent).enqueue("k")
    assert jobs(conn) == [(enqueued.id, "waiting", 0)]


def test_a_subclass_of_psycopg_connection_is_taken(dsn: str) -> None:
    """Instrumentation makes such classes."""

    class Traced(psycopg.Connection[Any]):
        pass

    with Traced.connect(dsn) as conn:
        assert Queue(conn).enqueue("k").created
