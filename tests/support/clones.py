"""Clean databases, one for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

from support.database import Connection
from support.servers import Place


class Clones:
    """
    Copies of a template database, made and dropped over one connection.

    In memory the copy of the files takes half the CPU time of the default strategy, which writes every page to the WAL;
    on a disk it takes more, because the server asks for its write-back.

    A copy is dropped after the next one is made, because a DROP DATABASE that finds a session of the finished test
    waits 100 ms for its end; and before the next test begins, because a role that owns objects in any database cannot
    be dropped. No thread makes copies in advance: the tests use all cores anyway, and some of them need a server on
    which nothing else happens.
    """

    def __init__(self, place: Place, template: str) -> None:
        self._place = place
        self._template = template
        self._count = 0
        self._left: list[str] = []

    def __enter__(self) -> Self:
        self._admin = self._connect(self._place.maintenance_dbname)
        self._admin.autocommit = True
        self._admin.execute("SET statement_timeout = 0")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._drop()
        self._admin.close()

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Connect to a new copy."""
        self._count += 1
        name = f"pgq_test_{self._count}"
        copies_files = self._admin.info.server_version >= 150000 and self._place.host.startswith("/dev/shm/")
        strategy = "STRATEGY file_copy" if copies_files else ""
        self._admin.execute(
            sql.SQL(f"CREATE DATABASE {{}} TEMPLATE {{}} {strategy}").format(
                sql.Identifier(name), sql.Identifier(self._template)
            )
        )
        self._drop()
        self._left.append(name)
        conn = self._connect(name)
        try:
            yield conn
        finally:
            conn.close()

    def _connect(self, name: str) -> Connection:
        return psycopg.connect(host=self._place.host, port=self._place.port, user=self._place.user, dbname=name)

    def _drop(self) -> None:
        while self._left:
            self._admin.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self._left.pop()))
            )
