"""The machine, the software and the settings on which the numbers were measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from databases import connect, value
from programs import WORKERS

LIBRARIES = (
    "psycopg", "psycopg-binary", "pgqueuer", "asyncpg", "uvloop", "procrastinate", "pgmq", "dbos", "absurd-sdk",
)  # fmt: skip
SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size", "autovacuum")


def environment() -> dict[str, str]:
    """Return the hardware, versions, and the server's settings that decide what a commit costs."""
    memory = int(found(r"MemTotal:\s*(\d+)", "/proc/meminfo") or 0) / 1024**2
    with connect() as conn:
        server = {name: str(value(conn, "SELECT current_setting(%s)", [name])) for name in SETTINGS}
        version = str(value(conn, "SHOW server_version"))
    return {
        "cpu": found(r"model name\s*: (.*)", "/proc/cpuinfo") or platform.processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "PostgreSQL": version,
        "Python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "Node.js": node_version(),
        "graphile-worker": found(r'"graphile-worker": "(.*)"', str(WORKERS / "package.json")),
        **server,
    }


def now() -> str:
    """Return the date, and the commit that is checked out, if there is one."""
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(git, cwd=WORKERS, capture_output=True, text=True, check=False).stdout.strip()
    return ", ".join(filter(None, [datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"), commit]))


def node_version() -> str:
    """Return the version of Node.js, or a word if it is not installed."""
    if shutil.which("node") is None:
        return "none"
    return subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()


def markdown(environment: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {what} |" for name, what in environment.items())]) + "\n"


def found(pattern: str, file: str) -> str:
    """Return the first group of a pattern in a file, or the empty string."""
    try:
        match = re.search(pattern, Path(file).read_text(encoding="utf-8"))
    except OSError:
        return ""
    return match[1] if match else ""
