"""PgBouncer before a server, in transaction mode unless a test says otherwise."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from postgres.children import GRACE, in_child, masked
from postgres.debian import unpacked
from postgres.programs import Account
from postgres.server import Server
from psycopg.conninfo import make_conninfo

HOST = "127.0.0.1"
PACKAGES = (re.compile("pgbouncer"), re.compile(r"libevent-2\.1-\d+(t64)?"), re.compile(r"libc-?ares2(t64)?"))
CONFIG = """
[databases]
* = host={server.host} port={server.port}

[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {directory}/users
{settings}
"""


def _installed(directory: Path) -> tuple[str, str] | None:
    """Return the program and its library directories, from this machine or from Debian's packages."""
    if found := shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin"):
        return found, ""
    if (tree := unpacked("pgbouncer", *PACKAGES)) is None:
        return None
    # The account of the server may not reach the original.
    copy = shutil.copytree(tree, directory / "tree", symlinks=True)
    libraries = {str(path.parent) for path in copy.glob("usr/lib/**/*.so.*")}
    return str(copy / "usr/sbin/pgbouncer"), os.pathsep.join(libraries)


@contextmanager
def pgbouncer(server: Server, dsn: str, *, pool_mode: str = "transaction", **settings: str | int) -> Iterator[str]:
    """
    Yield a connection string for the same database through a PgBouncer, which ends with the context.

    The settings are those of its configuration file. Only the superuser of the server can connect. The test is skipped
    where PgBouncer is not available.
    """
    account = Account()
    with tempfile.TemporaryDirectory(prefix="pgq-", dir=account.temporary_base("")) as name:
        directory = Path(name)
        if (installed := _installed(directory)) is None:
            pytest.skip("PgBouncer is not installed, and its Debian package cannot be fetched")
        program, libraries = installed
        with socket.socket() as free:
            free.bind((HOST, 0))
            port = free.getsockname()[1]
        lines = "\n".join(f"{name} = {value}" for name, value in {"pool_mode": pool_mode, **settings}.items())
        config = CONFIG.format(server=server, host=HOST, port=port, directory=directory, settings=lines)
        (directory / "ini").write_text(config)
        (directory / "users").write_text(f'"{server.user}" ""\n')
        for path in (directory, directory / "ini", directory / "users"):
            account.own(path)
        with (directory / "log").open("wb") as log, masked():
            process = subprocess.Popen(
                [program, str(directory / "ini")],
                env={"PATH": os.defpath, "LD_LIBRARY_PATH": libraries},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=in_child(signal.SIGKILL),
                **account.popen,
            )
        try:
            _wait(process, port, directory / "log")
            yield make_conninfo(dsn, host=HOST, port=port)
        finally:
            process.kill()
            process.wait(GRACE)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    pytest.fail(f"PgBouncer does not listen: {log.read_text(errors='replace')[-1000:]}")
