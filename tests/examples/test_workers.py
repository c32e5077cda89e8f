"""
The workers of examples/workers/ keep the protocol of docs/protocol.md: each passes all that is required.

A language that is not installed is red, and so is a driver that cannot be fetched.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from support.paths import ROOT

WORKERS = ROOT / "examples" / "workers"
BUILD = ROOT / "build" / "workers"
GO_SOURCES = Path("/usr/share/gocode")
PGJDBC = Path("/usr/share/java/postgresql.jar")
# Debian's packages; node-postgres is fetched with npm, because Debian's Node and others exclude each other.
PACKAGES: Final = {
    "bash": ("bash", "postgresql-client"),
    "node": ("nodejs", "npm"),
    "ruby": ("ruby", "ruby-pg"),
    "php": ("php-cli", "php-pgsql"),
    "go": ("golang-go", "golang-github-lib-pq-dev"),
    "java": ("default-jdk-headless", "libpostgresql-jdbc-java"),
}


def run(*command: str | Path, **env: str) -> None:
    """Run a command that prepares a worker. Fails the test with what it prints."""
    done = subprocess.run(
        command, env=os.environ | env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")


def node() -> str:
    """Return the command line of the worker on Node.js."""
    # Node looks for packages beside the program.
    if not (BUILD / "node_modules" / "pg").is_dir():
        run("npm", "install", "pg@8", "--prefix", BUILD, "--ignore-scripts", "--no-audit", "--no-fund")
    shutil.copy(WORKERS / "worker.mjs", BUILD)
    return f"node {BUILD}/worker.mjs"


def go() -> str:
    """Return the command line of the worker in Go, compiled from the sources of Debian's packages alone."""
    cache = str(BUILD / "go-cache")
    run(
        "go",
        "build",
        "-o",
        BUILD / "go",
        WORKERS / "worker.go",
        GO111MODULE="off",
        GOPATH=str(GO_SOURCES),
        GOCACHE=cache,
    )
    return f"{BUILD}/go"


def java() -> str:
    """Return the command line of the worker in Java."""
    run("javac", "-cp", PGJDBC, "-d", BUILD, WORKERS / "Worker.java")
    return f"java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp {BUILD}:{PGJDBC} Worker"


COMMANDS: Final[dict[str, Callable[[], str]]] = {
    "bash": lambda: f"bash {WORKERS}/worker.sh",
    "node": node,
    "ruby": lambda: f"ruby {WORKERS}/worker.rb",
    "php": lambda: f"php {WORKERS}/worker.php",
    "go": go,
    "java": java,
}


def is_there(language: str) -> bool:
    """Return whether a language and its driver are installed."""
    tools = {"bash": ["bash", "psql"], "node": ["node", "npm"], "go": ["go"], "java": ["java", "javac"]}
    if not all(map(shutil.which, tools.get(language, [language]))):
        return False
    probes = {"ruby": ["ruby", "-r", "pg", "-e", ""], "php": ["php", "-r", "new ReflectionExtension('pdo_pgsql');"]}
    if language in probes:
        return subprocess.run(probes[language], capture_output=True, check=False).returncode == 0
    files = {"go": GO_SOURCES / "src/github.com/lib/pq", "java": PGJDBC}
    return language not in files or files[language].exists()


@pytest.mark.parametrize("language", COMMANDS)
def test_a_worker_keeps_the_protocol(language: str, tmp_path: Path) -> None:
    """It passes all that is required; the table says what it passes of the rest."""
    if not is_there(language):
        pytest.fail(f"not installed: apt-get install --no-install-recommends {' '.join(PACKAGES[language])}")
    BUILD.mkdir(parents=True, exist_ok=True)
    worker = COMMANDS[language]()
    log = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-m", "conformance", "--log", log, "--stride", "3", "--producer", f"{worker} enqueue", worker],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT / 'tools'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"{language}:\n{done.stdout}{done.stderr}")
    if done.returncode:
        print(log.read_text(errors="replace")[-5000:])
    assert done.returncode == 0
    assert re.search(r"^\d+ jobs: 0 lost, 0 doubled", done.stdout, flags=re.MULTILINE)
