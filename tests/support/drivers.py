"""The programs that use pgq through the drivers of other languages, and where they find these drivers."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from postgres.debian import unpacked

from support.npm import fetched

PROGRAMS = Path(__file__).parent / "programs"
# Fetched with npm; the versions are those of the page.
NODE = {"node_postgres.mjs": "pg@8", "postgres_js.mjs": "postgres@3"}


def program(name: str) -> list[str]:
    """Return a command that runs one of the programs. The test is skipped where the program cannot run."""
    return _java(name) if name.endswith(".java") else _node(name)


def _node(name: str) -> list[str]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    tree = fetched(NODE[name])
    if tree is None:
        pytest.skip(f"npm cannot fetch {NODE[name]}")
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
