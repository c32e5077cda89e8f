"""The server of a test run."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from postgres.server import Server


@dataclass(frozen=True)
class Place:
    """A server with the attributes that pytest-postgresql reads."""

    server: Server
    host: str
    port: int
    user: str
    password: str = ""
    options: str = ""
    maintenance_dbname: str = "postgres"
    template_dbname: str = "template0"


def memory() -> str | None:
    """Return a directory in memory in which programs run and a server has room, or None."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    has_room = found.f_bavail * found.f_frsize > 4 << 30
    return "/dev/shm" if has_room and not found.f_flag & os.ST_NOEXEC else None


def close_public(**where: Any) -> None:
    """Revoke CREATE on public, as PostgreSQL 15 does: pgq grants nothing where every role may create objects."""
    with psycopg.connect(**where) as conn:
        conn.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def client(place: Place, program: str) -> Path:
    """Return the server's own client program, or else the one on PATH: some distributions ship none."""
    found = shutil.which(program, path=place.server.env["PATH"])
    assert found is not None, f"there is no {program} beside the server's programs or on PATH"
    return Path(found)
