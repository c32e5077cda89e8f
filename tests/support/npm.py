"""Packages of npm, each fetched once into build/npm/."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from support.paths import ROOT

CACHE = ROOT / "build" / "npm"


def fetched(package: str) -> Path | None:
    """Return the directory with the node_modules of a package, such as ``pg@8``; None: npm cannot fetch it."""
    npm = shutil.which("npm")
    tree = CACHE / package.replace("/", "-")
    if tree.is_dir():
        return tree
    if npm is None:
        return None
    CACHE.mkdir(parents=True, exist_ok=True)
    # Renamed when complete: later runs trust a directory of this name.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=CACHE, ignore_cleanup_errors=True) as partial:
        options = ["--cache", f"{partial}/cache", "--no-audit", "--no-fund", "--no-update-notifier"]
        install = [npm, "install", package, "--prefix", f"{partial}/tree", "--ignore-scripts", *options]
        (Path(partial) / "tree").mkdir()
        done = subprocess.run(install, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != 0:
            return None
        # Fails if another run was faster.
        with suppress(OSError):
            (Path(partial) / "tree").rename(tree)
    return tree
