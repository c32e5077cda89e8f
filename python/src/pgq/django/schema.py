"""The migration of the SQL, and what of a connection of Django's it needs."""

from __future__ import annotations

from typing import Any

import psycopg
from django.db import connections, router
from django.db.migrations.operations.base import Operation
from psycopg import pq
from psycopg.conninfo import make_conninfo

from pgq.schema.install import install, installed_version, uninstall
from pgq.schema.upgrade import upgrade

KEYWORDS = frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())


def conninfo(alias: str) -> str:
    """Return how to connect to a database of Django's, as libpq reads it."""
    connection = connections[alias]
    params = {name: value for name, value in connection.get_connection_params().items() if name in KEYWORDS}
    if role := connection.settings_dict["OPTIONS"].get("assume_role"):
        escaped = str(role).replace("\\", "\\\\").replace(" ", "\\ ")
        params["options"] = f"{params.get('options') or ''} -c role={escaped}".strip()
    return make_conninfo("", **params)


def raw(connection: Any) -> psycopg.Connection[Any]:
    """Return the psycopg.Connection behind one of Django's."""
    connection.ensure_connection()
    conn: psycopg.Connection[Any] = connection.connection
    return conn


class InstallPgq(Operation):
    """
    Bring the SQL of pgq in a database to the version of this driver: install it, or upgrade what is there.

    Databases that are not PostgreSQL, and those to which a router lets no migration of the app "pgq", are left alone.
    Backwards, pgq is removed; while jobs wait or run, pgq.JobsRemain is raised.
    """

    reduces_to_sql = False
    reversible = True

    def __init__(self, version: str) -> None:
        self.version = version

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change no model."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Install or upgrade."""
        if not allowed(schema_editor.connection, app_label):
            return
        conn = raw(schema_editor.connection)
        if installed_version(conn, None) is None:
            install(conn)
        else:
            upgrade(conn)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Remove."""
        if allowed(schema_editor.connection, app_label):
            uninstall(raw(schema_editor.connection))

    def describe(self) -> str:
        """Return what ``migrate --plan`` shows."""
        return f"Install pgq {self.version}, or upgrade to it"


def allowed(connection: Any, app_label: str) -> bool:
    """Return whether pgq is to be in a database."""
    return connection.vendor == "postgresql" and bool(router.allow_migrate(connection.alias, app_label))
