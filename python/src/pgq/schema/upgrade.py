"""Bringing the SQL in a database up to the version of this driver."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from pgq.errors import NoUpgradePath as NoPath
from pgq.queue import Queue
from pgq.schema.install import locate as find
from pgq.schema.install import retry_until_locked as patiently
from pgq.schema.install import run
from pgq.schema.install import search_path as inside
from pgq.version import driver_version, parse_version


def scripts() -> dict[str, tuple[str, str]]:
    """Each version that an upgrade starts from, with the version it leads to and the SQL."""
    found = {}
    for file in files("pgq.schema").joinpath("upgrades").iterdir():
        before, _, after = file.name.removesuffix(".sql").partition("--")
        found[before] = (after, file.read_text(encoding="utf-8"))
    return found


def upgrade(conn: psycopg.Connection[Any], *, schema: str | None = None) -> Iterator[str]:
    """
    Upgrade the pgq in ``schema``, or else the one that the search path finds; yields each version that is reached.

    Nothing is yielded where there is nothing to do. Each step is one transaction, made while everybody works, and waits
    only half a second for a lock, because others would wait behind it; it is tried again for a minute. Of an extension
    the server must have the new files. The connection must be in autocommit mode. Raises NotInstalled, NoPath and Busy.
    """
    where, extension = find(conn, schema)
    queue = Queue(conn, schema=where)
    there = queue.version()
    if parse_version(there) > parse_version(driver_version()):
        raise NoPath(
            f"the SQL in the database is version {there}, and this driver {driver_version()}",
            hint="Upgrade the driver: pip install --upgrade pgq-jobs.",
        )
    steps = scripts()
    while there != driver_version():
        if there not in steps:
            raise NoPath(
                f"there is no upgrade script from {there} to {driver_version()}",
                hint="Install this driver anew, with all its files; from a version before 0.1.0 there is no way.",
            )
        after, text = steps[there]
        try:
            if extension:
                patiently(_update, conn, after)
            else:
                with inside(conn, where):
                    patiently(run, conn, text)
        except psycopg.errors.ObjectNotInPrerequisiteState:
            # Unless somebody else was faster.
            if queue.version() == there:
                raise
        there = queue.version()
        yield there


def _update(conn: psycopg.Connection[Any], to: str) -> None:
    try:
        conn.execute(sql.SQL("ALTER EXTENSION pgq UPDATE TO {}").format(to))
    except psycopg.errors.InvalidParameterValue as error:
        raise NoPath(
            str(error.diag.message_primary), hint=f"Put the files of pgq {to} on the server first: make install."
        ) from error
