"""The order of text changes with the C library or ICU; what pgq looks up must not depend on it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from postgres.server import Server
from support.database import one
from support.servers import Place

from pgq import WorkerQueue
from pgq.schema.install import install

# The same name, before and after an upgrade of the C library.
LOCALE = "xx_PGQ.UTF-8"
BEFORE, AFTER = "en_US", "C"


def define(directory: Path, source: str) -> None:
    """Compile a locale under the name, from the definition that is installed."""
    target = directory / LOCALE
    shutil.rmtree(target, ignore_errors=True)
    done = subprocess.run(
        ["localedef", "--no-archive", "-c", "-f", "UTF-8", "-i", source, target],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if not target.exists():
        pytest.skip(f"no locale can be compiled here: {done.stderr.strip()}")
    for path in (directory, target, *target.rglob("*")):
        path.chmod(0o755)


@pytest.fixture
def locales(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of locales that the server reads."""
    if shutil.which("localedef") is None:
        pytest.skip("localedef is not installed")
    parent = "/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"
    with tempfile.TemporaryDirectory(prefix="pgq-locales-", dir=parent) as directory:
        Path(directory).chmod(0o755)
        monkeypatch.setenv("LOCPATH", directory)
        yield Path(directory)


def test_all_queues_and_names_are_found_after_the_order_of_text_has_changed(place: Place, locales: Path) -> None:
    """A claim finds the jobs of every queue, and a worker its name."""
    define(locales, BEFORE)
    queues = sorted(f"{first}{n:02}{last}" for first in "aBcD_e-F" for n in range(25) for last in ("", "-x", "X"))
    with Server(bindir=place.server.bindir) as server:
        dsn = f"host={server.host} port={server.port} user={server.user} dbname"
        with psycopg.connect(f"{dsn}={server.dbname}", autocommit=True) as conn:
            try:
                conn.execute(f"CREATE DATABASE turned TEMPLATE template0 LC_COLLATE '{LOCALE}' LC_CTYPE 'C'".encode())
            except psycopg.Error as error:
                pytest.skip(f"the server does not read LOCPATH: {error}")
        with psycopg.connect(f"{dsn}=turned", autocommit=True) as conn:
            install(conn)
            assert one(conn, "SELECT 'a' < 'B'")
            queue = WorkerQueue(conn)
            for name in queues:
                queue.enqueue("k", queue=name)
                queue.register(name)
                queue.unregister(name) if name.endswith("x") else None
        server.stop()
        define(locales, AFTER)
        server.start()
        with psycopg.connect(f"{dsn}=turned", autocommit=True) as conn:
            assert not one(conn, "SELECT 'a' < 'B'"), "the order of text has not changed"
            queue = WorkerQueue(conn)
            assert [name for name in queues if len(queue.claim([name])) != 1] == []
            registered = one(conn, "SELECT count(*) FROM pgq_worker_session")
            for name in queues:
                if not name.endswith("x"):
                    queue.register(name)
            assert one(conn, "SELECT count(*) FROM pgq_worker_session") == registered
