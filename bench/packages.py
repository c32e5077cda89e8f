"""What contenders need beside Python packages: fetched once, into build/."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness import Unavailable
from programs import WORKERS

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "bench-packages"
# The last commit of pgq 0.2.0.
RELEASE = "abe8311c8fb130e5c5d39eb018cdd9be1ddcb27f"
# The last commit without groups, schedules and workflows.
PLAIN = "f6f0d85af0b74e2f4c41a135289ea95c767995e9"
NPM_OPTIONS = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")


def node_modules() -> Path:
    """Return the directory of the packages of workers/package-lock.json. Raises Unavailable without npm and node."""
    lock = WORKERS / "package-lock.json"
    tree = CACHE / f"npm-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if shutil.which("node") is None:
        raise Unavailable("node is not installed")
    if not tree.is_dir():
        if (npm := shutil.which("npm")) is None:
            raise Unavailable("npm is not installed")
        with _made(tree) as filled:
            for name in ("package.json", lock.name):
                shutil.copy(WORKERS / name, filled)
            _run(npm, "ci", *NPM_OPTIONS, "--cache", f"{filled.parent}/cache", cwd=filled)
    return tree / "node_modules"


def release() -> Path:
    """Return the directory of pgq 0.2.0, built from its commit. Raises Unavailable where git does not have that."""
    tree = _tree(RELEASE)
    if not tree.is_dir():
        with _exported(RELEASE, tree) as filled:
            _run("make", "all", cwd=filled)
            # Its driver reads its version there, as from a package that is installed.
            metadata = filled / "python/src/pgq_jobs-0.2.0.dist-info/METADATA"
            metadata.parent.mkdir()
            metadata.write_text("Metadata-Version: 2.1\nName: pgq-jobs\nVersion: 0.2.0\n", encoding="utf-8")
    return tree


def plain_sql() -> Path:
    """
    Return the SQL of pgq without groups, schedules and workflows, built from its commit.

    Raises Unavailable where git does not have that.
    """
    tree = _tree(PLAIN)
    sql = "build/pgq.sql"
    if not tree.is_dir():
        with _exported(PLAIN, tree) as filled:
            _run("make", sql, cwd=filled)
    return tree / sql


def _tree(commit: str) -> Path:
    return CACHE / f"pgq-{commit[:12]}"


@contextmanager
def _exported(commit: str, tree: Path) -> Iterator[Path]:
    """Yield a directory with the files of a commit, as _made does. Raises Unavailable where git does not have it."""
    try:
        _run("git", "cat-file", "-e", f"{commit}^{{commit}}", cwd=ROOT)
    except Unavailable as error:
        raise Unavailable(f"this checkout does not have commit {commit[:12]} of pgq; fetch its history") from error
    with _made(tree) as filled:
        archive = filled / "pgq.tar"
        _run("git", "archive", "--output", str(archive), commit, cwd=ROOT)
        shutil.unpack_archive(archive, filled)
        archive.unlink()
        yield filled


@contextmanager
def _made(tree: Path) -> Iterator[Path]:
    """Yield a directory to fill, which gets its name when it is complete: later runs trust a directory of this name."""
    CACHE.mkdir(parents=True, exist_ok=True)
    print(f"bench: preparing {tree.name} once, in {CACHE}", flush=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=CACHE) as name:
        filled = Path(name, "tree")
        filled.mkdir()
        yield filled
        # Fails if another run was faster.
        with suppress(OSError):
            filled.rename(tree)


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        raise Unavailable(f"{command[0]} {command[1]} failed: {done.stdout.decode(errors='replace').strip()[-500:]}")
