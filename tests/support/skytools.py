"""PgQ of Skytools, another project with an extension of this name, from its Debian package."""

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
    """Return the only file of this name in the package; skip the test where the package is not available."""
    tree = _tree()
    if tree is None:
        pytest.skip("the Debian package of PgQ is not available here")
    (file,) = tree.glob(f"usr/share/postgresql/*/*/{name}")
    return file
