"""The programs that use pgq through the drivers of other languages, and where they find these drivers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from postgres.debian import unpacked

from support.paths import ROOT

PROGRAMS = Path(__file__).parent / "programs"
CACHE = ROOT / "build" / "drivers"
# Fetched with npm; the versions are those of the page.
NODE = {"node_postgres.mjs": "pg@8", "postgres_js.mjs": "postgres@3"}


def program(name: str) -> list[str]:
    """Return a command that runs one of the programs. The test is skipped where the program cannot run."""
    return _java(name) if name.endswith(".java") else _node(name)


def _node(name: str) -> list[str]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node or npm is not installed")
    tree = CACHE / name.partition(".")[0]
    if not tree.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Renamed when complete: later runs trust a directory of this name.
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=CACHE, ignore_cleanup_errors=True) as partial:
            options = ["--cache", f"{partial}/cache", "--no-audit", "--no-fund", "--no-update-notifier"]
            install = [npm, "install", NODE[name], "--prefix", f"{partial}/tree", "--ignore-scripts", *options]
            (Path(partial) / "tree").mkdir()
            done = subprocess.run(install, stdin=subprocess.DEVNULL, capture_output=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"npm cannot fetch {NODE[name]}")
            # Fails if another run was faster.
            with suppress(OSError):
                (Path(partial) / "tree").rename(tree)
    # Node looks for packages beside the program.
    shutil.copy(PROGRAMS / name, tree)
    return [node, str(tree / name)]


def _java(name: str) -> list[str]:
    # A source file runs only with the compiler.
    java, compiler = shutil.which("java"), shutil.which("javac")
    if java is None or compiler is None:
        pytest.skip("java or javac is not installed")
    installed = Path("/usr/share/java/postgresql.jar")
    if not installed.exists():
        tree = unpacked("pgjdbc", re.compile("libpostgresql-jdbc-java"))
        if tree is None:
            pytest.skip("pgjdbc is not installed, and its Debian package cannot be fetched")
        installed = tree / "usr/share/java/postgresql.jar"
    return [java, "-cp", os.fspath(installed), str(PROGRAMS / name)]
