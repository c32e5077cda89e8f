"""Putting the SQL into a database, and taking it out again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from pgq.errors import Error, NotInstalled
from pgq.queue import Queue

# For how long to try to get the locks, and the pause between two tries, in which everybody else goes on.
PATIENCE, PAUSE = 60.0, 1.0
CREATED = re.compile(r"^CREATE (?:UNLOGGED )?(TABLE|VIEW|SEQUENCE|FUNCTION|TYPE) (\w+)", re.MULTILINE)


class AlreadyInstalled(Error):
    """There is a pgq in this schema."""


class Busy(Error):
    """Somebody uses the tables all the time."""


class LiveJobs(Error):
    """There are jobs that wait or run."""


def script() -> str:
    """The SQL that installs pgq into the first schema of the search path, in a transaction of its own."""
    return files("pgq.schema").joinpath("pgq.sql").read_text(encoding="utf-8")


def install(conn: psycopg.Connection[Any], *, schema: str | None = None) -> str:
    """
    Install pgq, into ``schema`` (made if need be) or the first schema of the search path; the answer is the version.

    The connection must be in autocommit mode: the script is one transaction, all or nothing. Raises AlreadyInstalled.
    """
    if schema is not None:
        name = sql.Identifier(schema)
        # IF NOT EXISTS alone would demand the right to create schemas from the owner of an existing one.
        if conn.execute("SELECT to_regnamespace(%s) IS NOT NULL", [name.as_string(conn)]).fetchone() != (True,):
            conn.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        with inside(conn, schema):
            return install(conn)
    try:
        run(conn, script())
    except psycopg.errors.DuplicateObject as error:
        raise AlreadyInstalled(str(error.diag.message_primary), hint=error.diag.message_hint) from error
    return Queue(conn).version()


def uninstall(conn: psycopg.Connection[Any], *, schema: str | None = None, force: bool = False) -> str:
    """
    Remove the pgq in ``schema``, or else the one that the search path finds; the answer is the version it had.

    Jobs that have ended go without further ado; when any wait or run it raises LiveJobs, unless ``force``. What others
    have built upon pgq, such as a view of theirs, stays, and pgq with it. So does the schema, and what pgq_grant has
    given on it. The connection must be in autocommit mode. Raises NotInstalled, and Busy.
    """
    where, extension = find(conn, schema)
    version = Queue(conn, schema=where).version()
    patiently(_remove, conn, where, extension, force)
    return version


def _remove(conn: psycopg.Connection[Any], schema: str, extension: bool, force: bool) -> None:
    at = sql.Identifier(schema)
    with conn.transaction():
        conn.execute("SELECT set_config('lock_timeout', '500ms', true)")
        # So that no job comes in between.
        conn.execute(sql.SQL("LOCK TABLE {0}.pgq_waiting, {0}.pgq_running").format(at))
        live = sql.SQL("SELECT (SELECT count(*) FROM {0}.pgq_waiting) + (SELECT count(*) FROM {0}.pgq_running)")
        (jobs,) = conn.execute(live.format(at)).fetchone() or (0,)
        if jobs and not force:
            raise LiveJobs(f"{jobs} jobs wait or run", hint="Let them be done, or give --force to lose them.")
        if extension:
            conn.execute("DROP EXTENSION pgq")
            return
        # In reverse, each is dropped before what it stands on.
        for kind, name in reversed(CREATED.findall(script())):
            if kind != "FUNCTION":
                conn.execute(sql.SQL(f"DROP {kind} IF EXISTS {{}}.{{}}").format(at, sql.Identifier(name)))
                continue
            # By its name, for in another release it may have had other arguments.
            for (function,) in conn.execute(
                "SELECT oid::regprocedure::text FROM pg_proc "
                "WHERE pronamespace = to_regnamespace(quote_ident(%s)) AND proname = %s",
                [schema, name],
            ).fetchall():
                conn.execute(f"DROP FUNCTION {function}".encode())


def find(conn: psycopg.Connection[Any], schema: str | None) -> tuple[str, bool]:
    """The schema that pgq lives in, ``schema`` or one of the search path, and whether it is an extension there."""
    name = "pgq_waiting" if schema is None else f"{sql.Identifier(schema).as_string(conn)}.pgq_waiting"
    row = conn.execute(
        "SELECT n.nspname, EXISTS (SELECT FROM pg_depend AS d "
        "WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') "
        "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)",
        [name],
    ).fetchone()
    if row is None:
        where = "on the search path" if schema is None else f'in the schema "{schema}"'
        raise NotInstalled(f"there is no pgq {where}", hint="Run pgq install, or name the schema with --schema.")
    return row[0], row[1]


@contextmanager
def inside(conn: psycopg.Connection[Any], schema: str) -> Iterator[None]:
    """With this schema as the search path of a connection in autocommit mode."""
    (before,) = conn.execute("SELECT current_setting('search_path')").fetchone() or ("",)
    conn.execute("SELECT set_config('search_path', quote_ident(%s), false)", [schema])
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute("SELECT set_config('search_path', %s, false)", [before])


def run(conn: psycopg.Connection[Any], text: str) -> None:
    """Run a script that is one transaction, through a connection in autocommit mode."""
    try:
        conn.execute(text.encode())
    except psycopg.Error:
        # The script's own transaction is still open.
        if not conn.closed:
            conn.execute("ROLLBACK")
        raise


def patiently(step: Callable[..., Any], *arguments: Any) -> None:
    """Try until the locks can be had; raises Busy when that takes too long."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        try:
            step(*arguments)
            return
        except psycopg.errors.LockNotAvailable as error:
            if time.monotonic() > give_up_at:
                raise Busy(
                    f"could not get the locks within {PATIENCE:.0f} s",
                    hint="Look in pg_stat_activity for a transaction that is open for long, end it, and try again.",
                ) from error
        time.sleep(PAUSE)
