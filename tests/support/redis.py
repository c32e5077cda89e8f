"""A Redis server that is thrown away."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from postgres.children import in_child, masked
from postgres.debian import unpacked

HOST = "127.0.0.1"
PATIENCE = 10.0


@dataclass(frozen=True)
class Redis:
    """Where the server listens, and what finds its programs: ``env`` is for processes that call redis-cli."""

    url: str
    env: dict[str, str]


def _programs() -> tuple[str, str]:
    """Return the directories of the programs and of their libraries, from this machine or from Debian's packages."""
    found = [shutil.which(name) for name in ("redis-server", "redis-cli")]
    if all(found):
        return os.pathsep.join(str(Path(name or "").parent) for name in found), ""
    names = (re.compile("redis-server"), re.compile("redis-tools"))
    if (tree := unpacked("redis", *names, dependencies=True)) is None:
        pytest.fail("Redis is not installed, and its Debian packages cannot be fetched")
    libraries = {str(path.parent) for path in tree.glob("usr/lib/**/*.so*")}
    return str(tree / "usr/bin"), os.pathsep.join(libraries)


@contextmanager
def redis(directory: Path) -> Iterator[Redis]:
    """Start a server that keeps nothing on disk, and ends with the context."""
    programs, libraries = _programs()
    env = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "LD_LIBRARY_PATH": libraries}
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    options = {"bind": HOST, "port": str(port), "save": "", "dir": str(directory)}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    with (directory / "redis.log").open("wb") as log, masked():
        process = subprocess.Popen(
            ["redis-server", *words],
            env=os.environ | env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=in_child(signal.SIGKILL),
        )
    try:
        _wait(process, port, directory / "redis.log")
        yield Redis(f"redis://{HOST}:{port}/0", env)
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), 1).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    pytest.fail(f"Redis does not listen: {log.read_text(errors='replace')[-1000:]}")
