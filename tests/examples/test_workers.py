"""
The workers of examples/workers/ keep the protocol of docs/protocol.md: each passes all that is required.

As root, a language that is missing is installed from Debian's packages. Otherwise it is red, and so is a driver that
cannot be fetched.
"""

from __future__ import annotations

import fcntl
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
CRATES = Path("/usr/share/cargo/registry")
CARGO = """
[package]
name = "worker"
version = "0.0.0"
edition = "2021"

[[bin]]
name = "worker"
path = "{path}"

[dependencies]
tokio = {{ version = "1", features = ["macros", "rt", "signal", "time"] }}
tokio-postgres = "0.7"
"""
CARGO_CONFIG = """
[source.crates-io]
replace-with = "debian"

[source.debian]
directory = "{crates}"
"""
# Debian's packages; node-postgres is fetched with npm, because Debian's Node and others exclude each other.
PACKAGES: Final = {
    "bash": ("bash", "postgresql-client"),
    "node": ("nodejs", "npm"),
    "ruby": ("ruby", "ruby-pg"),
    "php": ("php-cli", "php-pgsql"),
    "go": ("golang-go", "golang-github-lib-pq-dev"),
    "java": ("default-jdk-headless", "libpostgresql-jdbc-java"),
    "rust": ("cargo", "librust-tokio-postgres-dev", "librust-tokio-dev"),
}


def run(*command: str | Path, **env: str) -> None:
    """Run a command that prepares a worker. Fails the test with what it prints."""
    done = subprocess.run(
        command, env=os.environ | env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")


def install(language: str) -> None:
    """Install a language and its driver. Fails the test with the reason if that is not possible."""
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES[language]]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.fail(f"{language} is not installed: {' '.join(command)}")
    # The packages of two languages cannot be installed at the same time.
    with (BUILD / "apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run("apt-get", "update")
        run(*command, DEBIAN_FRONTEND="noninteractive")
    if not is_there(language):
        pytest.fail(f"{language} is not complete after {' '.join(command)}")


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


def rust() -> str:
    """Return the command line of the worker in Rust, compiled from the crates of Debian's packages alone."""
    project = BUILD / "rust"
    (project / ".cargo").mkdir(parents=True, exist_ok=True)
    (project / "Cargo.toml").write_text(CARGO.format(path=WORKERS / "worker.rs"))
    (project / ".cargo" / "config.toml").write_text(CARGO_CONFIG.format(crates=CRATES))
    # Cargo reads the configuration of the directory that it runs in.
    run("env", f"--chdir={project}", "cargo", "build", "--quiet", "--offline")
    return f"{project}/target/debug/worker"


COMMANDS: Final[dict[str, Callable[[], str]]] = {
    "bash": lambda: f"bash {WORKERS}/worker.sh",
    "node": node,
    "ruby": lambda: f"ruby {WORKERS}/worker.rb",
    "php": lambda: f"php {WORKERS}/worker.php",
    "go": go,
    "java": java,
    "rust": rust,
}


def is_there(language: str) -> bool:
    """Return whether a language and its driver are installed."""
    tools = {"bash": ["bash", "psql"], "node": ["node", "npm"], "java": ["java", "javac"], "rust": ["cargo"]}
    if not all(map(shutil.which, tools.get(language, [language]))):
        return False
    probes = {"ruby": ["ruby", "-r", "pg", "-e", ""], "php": ["php", "-r", "new ReflectionExtension('pdo_pgsql');"]}
    if language in probes:
        return subprocess.run(probes[language], capture_output=True, check=False).returncode == 0
    crate = next(CRATES.glob("tokio-postgres-[0-9]*"), CRATES / "tokio-postgres")
    files = {"go": GO_SOURCES / "src/github.com/lib/pq", "java": PGJDBC, "rust": crate}
    return language not in files or files[language].exists()


@pytest.mark.parametrize("language", COMMANDS)
def test_a_worker_keeps_the_protocol(language: str, tmp_path: Path) -> None:
    """It passes all that is required; the table says what it passes of the rest."""
    BUILD.mkdir(parents=True, exist_ok=True)
    if not is_there(language):
        install(language)
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
