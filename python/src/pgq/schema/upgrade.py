"""Upgrade the SQL in a database to the version of this driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from pgq.connection import check_connection
from pgq.errors import NoUpgradePath
from pgq.queue import Queue
from pgq.schema.install import locate, retry_until_locked, run, search_path
from pgq.version import driver_version, parse_version


def scripts() -> dict[str, tuple[str, str]]:
    """Return each version that an upgrade starts from, with the version it leads to and the SQL."""
    found = {}
    for file in files("pgq.schema").joinpath("upgrades").iterdir():
        before, _, after = file.name.removesuffix(".sql").partition("--")
        found[before] = (after, file.read_text(encoding="utf-8"))
    return found


def upgrade(
    conn: psycopg.Connection[Any], *, schema: str | None = None, notice: Callable[[str], None] | None = None
) -> list[str]:
    """
    Upgrade the pgq in ``schema``, or the one that the search path finds, to the version of this driver.

    Return the versions that were reached, in their order; the list is empty when the SQL is up to date. Each step is a
    transaction of its own, so the steps before one that fails remain. A step waits only half a second for a lock,
    because all callers queue up behind it; it is tried again for a minute. ``notice`` is called with what the server
    says beforehand, such as how long a step takes; the changelog says for which releases workers and producers must be
    stopped. The server must have the new files of an extension. The connection must be in autocommit mode. Raises
    NotInstalled, NoUpgradePath, LockTimeout, and errors of psycopg when a step refuses.
    """
    return list(upgrade_steps(conn, schema=schema, notice=notice))


def upgrade_steps(
    conn: psycopg.Connection[Any], *, schema: str | None = None, notice: Callable[[str], None] | None = None
) -> Iterator[str]:
    """Do the same, and yield each version as it is reached."""
    check_connection(conn)
    with _notices(conn, notice):
        yield from _upgrade(conn, schema)


def steps_left(conn: psycopg.Connection[Any], schema: str | None = None) -> int:
    """Return how many steps an upgrade has. Raises NotInstalled."""
    there, steps, count = Queue(conn, schema=locate(conn, schema)[0]).version(), scripts(), 0
    while there in steps and there != driver_version():
        there = steps[there][0]
        count += 1
    return count


def _upgrade(conn: psycopg.Connection[Any], schema: str | None) -> Iterator[str]:
    where, extension = locate(conn, schema)
    queue = Queue(conn, schema=where)
    there = queue.version()
    if parse_version(there) > parse_version(driver_version()):
        raise NoUpgradePath(
            f"the SQL in the database is version {there}, and this driver {driver_version()}",
            hint="Upgrade the driver: pip install --upgrade pgq-jobs.",
        )
    steps = scripts()
    while there != driver_version():
        if there not in steps:
            raise NoUpgradePath(
                f"there is no upgrade script from {there} to {driver_version()}",
                hint="Install this driver anew, with all its files; from a version before 0.1.0 there is no way.",
            )
        after, text = steps[there]
        try:
            if extension:
                retry_until_locked(_update, conn, after)
            else:
                with search_path(conn, where):
                    retry_until_locked(run, conn, text)
        except psycopg.errors.ObjectNotInPrerequisiteState:
            # Another session may have made the step in the meantime.
            if queue.version() == there:
                raise
        there = queue.version()
        yield there


@contextmanager
def _notices(conn: psycopg.Connection[Any], notice: Callable[[str], None] | None) -> Iterator[None]:
    """Pass the notices and warnings of the server on, each once: a step that is tried again repeats them."""
    said = set()

    def pass_on(diagnostic: psycopg.errors.Diagnostic) -> None:
        message = diagnostic.message_primary
        if notice is not None and message is not None and message not in said:
            said.add(message)
            notice(message)

    conn.add_notice_handler(pass_on)
    try:
        yield
    finally:
        conn.remove_notice_handler(pass_on)


def _update(conn: psycopg.Connection[Any], to: str) -> None:
    try:
        conn.execute(sql.SQL("ALTER EXTENSION pgq UPDATE TO {}").format(to))
    except psycopg.errors.InvalidParameterValue as error:
        raise NoUpgradePath(
            str(error.diag.message_primary), hint=f"Put the files of pgq {to} on the server first: make install."
        ) from error
