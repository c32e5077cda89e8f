"""PgQ of Skytools, the other project with an extension of this name: out of its Debian package."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from postgres.debian import unpacked

PACKAGE = re.compile(r"postgresql-(\d+)-pgq3")


@cache
def _tree() -> Path | None:
    return unpacked("pgq3", PACKAGE)


def pgq3(name: str) -> Path:
    """A file of the package, the only one of this name; the test is skipped where the package cannot be had."""
    tree = _tree()
    if tree is None:
        pytest.skip("there is no Debian package of PgQ to be had here")
    (file,) = tree.glob(f"usr/share/postgresql/*/*/{name}")
    return file
