"""A repository with the sources as they are now, committed or not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from support.paths import ROOT


def commit_sources(there: Path) -> None:
    """Copy the sources to a directory that does not exist yet, without what is built, and commit them there."""
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", "upgrades", "pgq.sql", "results")
    shutil.copytree(ROOT, there, ignore=ignored)
    shutil.copytree(ROOT / "sql", there / "sql", dirs_exist_ok=True)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "x"]):
        subprocess.run([*git, *command], cwd=there, check=True, capture_output=True)
