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
    tree = CACHE / f"pgq-{RELEASE[:12]}"
    if not tree.is_dir():
        try:
            _run("git", "cat-file", "-e", f"{RELEASE}^{{commit}}", cwd=ROOT)
        except Unavailable as error:
            raise Unavailable("this checkout does not have the commit of pgq 0.2.0") from error
        with _made(tree) as filled:
            archive = filled / "pgq.tar"
            _run("git", "archive", "--output", str(archive), RELEASE, cwd=ROOT)
            shutil.unpack_archive(archive, filled)
            archive.unlink()
            _run("make", "all", cwd=filled)
            # Its driver reads its version there, as from a package that is installed.
            metadata = filled / "python/src/pgq_jobs-0.2.0.dist-info/METADATA"
            metadata.parent.mkdir()
            metadata.write_text("Metadata-Version: 2.1\nName: pgq-jobs\nVersion: 0.2.0\n", encoding="utf-8")
    return tree


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
