"""Putting the SQL into a database."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from pgq.errors import Error
from pgq.queue import Queue


class AlreadyInstalled(Error):
    """There is a pgq in this schema."""


def script() -> str:
    """The SQL that installs pgq into the first schema of the search path, in a transaction of its own."""
    return files("pgq").joinpath("pgq.sql").read_text(encoding="utf-8")


def install(conn: psycopg.Connection[Any], *, schema: str | None = None) -> str:
    """
    Install pgq, into ``schema`` (made if need be) or the first schema of the search path; the answer is the version.

    The connection must be in autocommit mode: the script is one transaction, all or nothing. Raises AlreadyInstalled.
    """
    if schema is not None:
        (before,) = conn.execute("SELECT current_setting('search_path')").fetchone() or ("",)
        name = sql.Identifier(schema)
        # IF NOT EXISTS alone would demand the right to create schemas from the owner of an existing one.
        if conn.execute("SELECT to_regnamespace(%s) IS NOT NULL", [name.as_string(conn)]).fetchone() != (True,):
            conn.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        conn.execute(sql.SQL("SET search_path TO {}").format(name))
        try:
            return install(conn)
        finally:
            conn.execute("SELECT set_config('search_path', %s, false)", [before])
    here = "SELECT to_regclass(quote_ident(current_schema()) || '.pgq_waiting') IS NOT NULL"
    if conn.execute(here).fetchone() == (True,):
        raise AlreadyInstalled(f"pgq {Queue(conn).version()} is installed here already", hint="There is nothing to do.")
    try:
        conn.execute(script().encode())
    except psycopg.Error:
        # The script's own transaction is still open.
        conn.execute("ROLLBACK")
        raise
    return Queue(conn).version()
