"""A server whose disk is full, or that is read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from postgres.programs import Account
from postgres.server import Server

from support.database import Connection


class Disk(Protocol):
    """The disk of a table."""

    def fill(self) -> None:
        """Leave no space. Statements that need more pages for the table fail with SQLSTATE 53100."""

    def free(self) -> None:
        """Free the space again."""


class _Tmpfs:
    def __init__(self, mounted: Path) -> None:
        self._ballast = mounted / "ballast"

    def fill(self) -> None:
        with suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        self._ballast.unlink()


class _Trigger:
    def __init__(self, conn: Connection, table: str) -> None:
        self._conn, self._table = conn, table
        conn.execute(
            "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100'; END$$"
        )

    def fill(self) -> None:
        self._conn.execute(f"CREATE TRIGGER no_room BEFORE INSERT ON {self._table} EXECUTE FUNCTION no_room()".encode())

    def free(self) -> None:
        self._conn.execute(f"DROP TRIGGER no_room ON {self._table}".encode())


@contextmanager
def small_disk(server: Server, conn: Connection, table: str) -> Iterator[Disk]:
    """
    Move an empty table of a private server to a disk of one megabyte; the server must end with the context.

    Where mounting a disk is not permitted, a trigger on the table raises the server's error.
    """
    directory = Path(server.host) / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield _Trigger(conn, table)
        return
    try:
        Account().own(directory)
        conn.execute(f"CREATE TABLESPACE small LOCATION '{directory}'".encode())
        conn.execute(f"ALTER TABLE {table} SET TABLESPACE small".encode())
        yield _Tmpfs(directory)
    finally:
        # Lazily, because the server still has open files there.
        subprocess.run(["umount", "-l", str(directory)], check=True)


@contextmanager
def read_only(conn: Connection) -> Iterator[None]:
    """Make every other session of a private server read-only, as on a standby, including existing ones."""
    conn.execute("SET default_transaction_read_only = off")
    conn.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    conn.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        conn.execute("ALTER SYSTEM RESET default_transaction_read_only")
        conn.execute("SELECT pg_reload_conf()")
