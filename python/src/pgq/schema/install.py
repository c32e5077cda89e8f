"""Install the SQL into a database, and remove it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final

import psycopg
from psycopg import sql

from pgq.connection import check_connection, rows_of
from pgq.errors import AlreadyInstalled, JobsRemain, LockTimeout, NotInstalled
from pgq.queue import Queue
from pgq.version import driver_version, parse_version

# How long to try for the locks, and the pause between two tries, in which other transactions go on; in seconds.
PATIENCE, PAUSE = 60.0, 1.0
CREATED: Final = re.compile(r"^CREATE (?:UNLOGGED )?(TABLE|VIEW|SEQUENCE|FUNCTION|TYPE) (\w+)", re.MULTILINE)
# Names that only earlier releases use.
FORMER_FUNCTIONS: Final = (
    "pgq_discard", "pgq_disown", "pgq_pending", "_pgq_caller", "_pgq_change_twins", "_pgq_errors", "_pgq_expire",
    "_pgq_expire_sometimes", "_pgq_functions", "_pgq_is_long", "_pgq_keep_head", "_pgq_lease_lost", "_pgq_limit",
    "_pgq_meet_twins", "_pgq_pause", "_pgq_problem", "_pgq_put_back", "_pgq_reached", "_pgq_recall_head",
    "_pgq_refuse", "_pgq_retry_or_bury", "_pgq_state", "_pgq_steps", "_pgq_sweep",
)  # fmt: skip
FORMER: Final = (
    ("TABLE", "pgq_worker"),
    ("VIEW", "pgq_job"),
    ("VIEW", "_pgq_sight"),
    *(("FUNCTION", name) for name in FORMER_FUNCTIONS),
)


def script() -> str:
    """Return the SQL that installs pgq into the first schema of the search path, in a transaction of its own."""
    return files("pgq.schema").joinpath("pgq.sql").read_text(encoding="utf-8")


def installed_version(conn: psycopg.Connection[Any], schema: str | None) -> str | None:
    """Return the version of the pgq in ``schema``, or in the first schema of the search path; None: it has none."""
    # Read, not called: another role that may create functions there could have planted it.
    rows = rows_of(
        conn,
        "SELECT substring(pg_get_function_sqlbody(p.oid) FROM %s) FROM pg_proc AS p "
        "JOIN pg_class AS c ON c.relnamespace = p.pronamespace AND c.relname = 'pgq_waiting' "
        "WHERE p.proname = 'pgq_version' AND p.pronargs = 0 "
        "AND p.pronamespace = to_regnamespace(quote_ident(coalesce(%s::text, current_schema())))",
        ["'(.*)'", schema],
    )
    return rows[0][0] if rows else None


def install(conn: psycopg.Connection[Any], *, schema: str | None = None) -> str:
    """
    Install pgq into ``schema``, or into the first schema of the search path, and return the version.

    A schema that does not exist is created. The script is one transaction, all or nothing, so the connection must be in
    autocommit mode. Raises AlreadyInstalled.
    """
    check_connection(conn)
    if schema is not None:
        name = sql.Identifier(schema)
        # IF NOT EXISTS alone would require the right to create schemas even where the schema exists.
        if rows_of(conn, "SELECT to_regnamespace(%s) IS NOT NULL", [name.as_string(conn)]) != [(True,)]:
            conn.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        with search_path(conn, schema):
            return install(conn)
    try:
        run(conn, script())
    except psycopg.errors.DuplicateObject as error:
        raise AlreadyInstalled(str(error.diag.message_primary), hint=error.diag.message_hint) from error
    return Queue(conn).version()


def uninstall(conn: psycopg.Connection[Any], *, schema: str | None = None, force: bool = False) -> str:
    """
    Remove the pgq in ``schema``, or the one that the search path finds, and return the version it had.

    Ended jobs are lost. While jobs wait or run, JobsRemain is raised, unless ``force``. Nothing is removed while other
    objects, such as a view, depend on pgq. The schema stays, and so does the USAGE on it that pgq_grant gave. The
    connection must be in autocommit mode. Raises NotInstalled and LockTimeout.
    """
    where, extension = locate(conn, schema)
    version = Queue(conn, schema=where).version()
    objects = CREATED.findall(script())[::-1]
    if parse_version(version) < parse_version(driver_version()):
        objects += FORMER
    retry_until_locked(_remove, conn, where, None if extension else objects, force)
    return version


def _remove(conn: psycopg.Connection[Any], schema: str, objects: Sequence[tuple[str, str]] | None, force: bool) -> None:
    """Drop the objects of a plain installation, or the extension if they are None."""
    name = sql.Identifier(schema)
    with conn.transaction():
        conn.execute("SELECT set_config('lock_timeout', '500ms', true)")
        # Up to 0.2.0, all running jobs were rows of pgq_running.
        packs = rows_of(conn, "SELECT to_regclass(%s)", [f"{name.as_string()}._pgq_running"]) != [(None,)]
        running = "_pgq_running" if packs else "pgq_running"
        tables = [sql.Identifier(schema, table) for table in ("pgq_waiting", running)]
        # No job may come between the count and the removal. To lock a view locks what it reads.
        conn.execute(sql.SQL("LOCK TABLE {}, {}").format(*tables))
        live = sql.SQL("SELECT (SELECT count(*) FROM {}) + (SELECT count(*) FROM {})")
        ((jobs,),) = rows_of(conn, live.format(*tables))
        if jobs and not force:
            raise JobsRemain(f"{jobs} jobs wait or run", hint="Let them be done, or give --force to lose them.")
        if objects is None:
            conn.execute("DROP EXTENSION pgq")
        else:
            _drop(conn, schema, objects)


def _drop(conn: psycopg.Connection[Any], schema: str, objects: Sequence[tuple[str, str]]) -> None:
    """
    Drop the objects of these kinds and names that exist, each after those that depend on it.

    The order is found by trying: the names come from several releases, and no script has all of them in an order.
    """
    left = list(objects)
    while left:
        blocked: dict[tuple[str, str], psycopg.errors.DependentObjectsStillExist] = {}
        for kind, name in left:
            try:
                with conn.transaction():
                    _drop_one(conn, schema, kind, name)
            except psycopg.errors.DependentObjectsStillExist as error:
                blocked[kind, name] = error
        if len(blocked) == len(left):
            raise blocked[left[0]]
        left = list(blocked)


def _drop_one(conn: psycopg.Connection[Any], schema: str, kind: str, name: str) -> None:
    if kind != "FUNCTION":
        conn.execute(sql.SQL(f"DROP {kind} IF EXISTS {{}}.{{}}").format(sql.Identifier(schema), sql.Identifier(name)))
        return
    # By name, because another release may have given the function other arguments.
    for (function,) in rows_of(
        conn,
        "SELECT oid::regprocedure::text FROM pg_proc "
        "WHERE pronamespace = to_regnamespace(quote_ident(%s)) AND proname = %s",
        [schema, name],
    ):
        conn.execute(f"DROP FUNCTION {function}".encode())


def locate(conn: psycopg.Connection[Any], schema: str | None) -> tuple[str, bool]:
    """
    Return the schema of the pgq in ``schema`` or on the search path, and whether it is an extension.

    Raises NotInstalled.
    """
    check_connection(conn)
    name = "pgq_waiting" if schema is None else f"{sql.Identifier(schema).as_string(conn)}.pgq_waiting"
    rows = rows_of(
        conn,
        "SELECT n.nspname, EXISTS (SELECT FROM pg_depend AS d "
        "WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') "
        "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)",
        [name],
    )
    if not rows:
        where = "on the search path" if schema is None else f'in the schema "{schema}"'
        raise NotInstalled(f"there is no pgq {where}", hint="Run pgq install, or name the schema with --schema.")
    return rows[0][0], rows[0][1]


@contextmanager
def search_path(conn: psycopg.Connection[Any], schema: str) -> Iterator[None]:
    """Make a schema the search path of a connection in autocommit mode, and restore the search path at the end."""
    ((before,),) = rows_of(conn, "SELECT current_setting('search_path')")
    rows_of(conn, "SELECT set_config('search_path', quote_ident(%s), false)", [schema])
    try:
        yield
    finally:
        if not conn.closed:
            rows_of(conn, "SELECT set_config('search_path', %s, false)", [before])


def run(conn: psycopg.Connection[Any], text: str) -> None:
    """Run a script that is one transaction, on a connection in autocommit mode."""
    try:
        conn.execute(text.encode())
    except psycopg.Error:
        # The transaction that the script began is still open.
        if not conn.closed:
            conn.execute("ROLLBACK")
        raise


def retry_until_locked(step: Callable[..., Any], *arguments: Any) -> None:
    """Run a step again until it gets its locks. Raises LockTimeout after PATIENCE seconds."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        try:
            step(*arguments)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if time.monotonic() > give_up_at:
                raise LockTimeout(
                    f"could not get the locks within {PATIENCE:.0f} s",
                    hint="End the transaction that has been open for long, which pgq doctor or pg_stat_activity shows, "
                    "and try again.",
                ) from error
        time.sleep(PAUSE)
