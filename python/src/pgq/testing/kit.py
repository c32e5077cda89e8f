"""The test kit in the database: the SQL that makes the clock of pgq follow that of a test."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg.rows import tuple_row

from pgq.schema.install import install, installed_version

IS_LOADED: Final = "SELECT pg_get_function_sqlbody(to_regproc('pgq_now')) LIKE '%%pg_try_advisory_lock_shared%%'"


def testkit() -> str:
    """Return the SQL that makes pgq_now(), in the first schema of the search path, follow ``time_travel``."""
    return files("pgq").joinpath("testkit.sql").read_text(encoding="utf-8")


# pytest would call it as a test of each module that imports it.
testkit.__test__ = False  # type: ignore[attr-defined]


def load(**connection: Any) -> None:
    """
    Install pgq and its test kit, where they are missing, in the database to which these arguments of psycopg lead.

    pytest-postgresql takes this function among the scripts that it loads. Raises RuntimeError for a database that has
    jobs but no test kit.
    """
    with psycopg.connect(**connection | {"autocommit": True}) as conn:
        prepare(conn)


def is_prepared(conn: psycopg.Connection[Any]) -> bool:
    """Return whether the search path of a connection leads to a pgq with its test kit."""
    return conn.cursor(row_factory=tuple_row).execute(IS_LOADED).fetchone() == (True,)


def prepare_like(conn: psycopg.Connection[Any]) -> None:
    """Do what ``load`` does in the database of a connection, through another one, which commits."""
    path = conn.cursor(row_factory=tuple_row).execute("SELECT current_setting('search_path')").fetchone()
    assert path is not None
    with psycopg.connect(conn.info.dsn, password=conn.info.password or None, autocommit=True) as own:
        own.execute("SELECT set_config('search_path', %s, false)", path)
        prepare(own)


def prepare(conn: psycopg.Connection[Any]) -> None:
    """Install what is missing, through a connection in autocommit mode."""
    if is_prepared(conn):
        return
    if installed_version(conn, None) is None and conn.execute("SELECT to_regproc('pgq_enqueue')").fetchone() == (None,):
        install(conn)
    if conn.execute("SELECT EXISTS (SELECT FROM pgq_jobs)").fetchone() == (True,):
        raise RuntimeError(f'the database "{conn.info.dbname}" has jobs: give tests a database of their own')
    conn.execute(testkit().encode())
