"""Fetch Debian packages and unpack them into build/debian/. Nothing is installed, and apt's state does not change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / "build" / "debian"
ATTEMPTS = 3


def unpacked(slot: str, *packages: re.Pattern[str], dependencies: bool = False) -> Path | None:
    """
    Return the directory of unpacked packages, fetched on the first call; None if they cannot be fetched.

    If several package names match a pattern, the one with the highest number in it is taken. With ``dependencies`` the
    packages that they need and this machine lacks are there, too.
    """
    tree = CACHE / slot
    if tree.is_dir():
        return tree
    if not all(map(shutil.which, ("apt-get", "apt-cache", "apt-config", "dpkg-deb"))):
        return None
    CACHE.mkdir(parents=True, exist_ok=True)
    print(f"debian: fetching {slot} once, into {CACHE}", file=sys.stderr)
    # Renamed when complete: later runs trust a directory of this name.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=CACHE, ignore_cleanup_errors=True) as name:
        partial = Path(name)
        for _ in range(ATTEMPTS):
            if _fetch(packages, partial, dependencies):
                (partial / "tree").chmod(0o755)
                # Fails if another run was faster.
                with suppress(OSError):
                    (partial / "tree").rename(tree)
                break
    return tree if tree.is_dir() else None


def output(*command: str, env: dict[str, str] | None = None) -> str | None:
    """Return the output of a command; None if it cannot be run or fails."""
    try:
        done = subprocess.run(
            command, env=os.environ | (env or {}), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError:
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _fetch(packages: Sequence[re.Pattern[str]], work: Path, dependencies: bool) -> bool:
    """Fetch and unpack packages below `work`; return whether that succeeded."""
    apt = _private_apt(work)
    # The status is ignored: one unrelated source may fail. The download decides.
    apt("apt-get", "update")
    known = (apt("apt-cache", "pkgnames") or "").split()
    matching = [[name for name in known if package.fullmatch(name)] for package in packages]
    if not all(matching):
        return False
    for old in work.glob("*.deb"):
        old.unlink()
    names = [max(names, key=_number) for names in matching]
    if dependencies:
        simulated = apt("apt-get", "install", "--simulate", "--no-install-recommends", *names) or ""
        names = re.findall(r"^Inst (\S+)", simulated, flags=re.MULTILINE)
    if not names or apt("apt-get", "download", *names) is None:
        return False
    return all(output("dpkg-deb", "-x", str(deb), str(work / "tree")) is not None for deb in work.glob("*.deb"))


def _number(name: str) -> int:
    return int("".join(re.findall(r"\d+", name)) or 0)


def _private_apt(work: Path) -> Callable[..., str | None]:
    """Return a function that runs apt with the machine's sources and keys, and writes only below `work`."""
    machine = output("apt-config", "dump") or ""
    # The machine's hooks would clean or refresh its own directories.
    settings = [line for line in machine.splitlines() if not re.match(r"[^ ]*::(Pre|Post)-(Invoke|Install)", line)]
    for key, value in {
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::State": f"{work}/state",
        "Dir::State::lists": f"{work}/lists/",
        "Dir::State::extended_states": f"{work}/extended_states",
        "Dir::Cache": f"{work}/cache",
        "Dir::Cache::archives": f"{work}/archives/",
        "Dir::Log": f"{work}/log",
        "Acquire::Languages": "none",
        "Acquire::Retries": "1",
        **({"APT::Sandbox::User": "root"} if os.geteuid() == 0 else {}),
    }.items():
        settings.append(f'{key} "{value}";')
    for directory in ("state", "lists/partial", "cache", "archives/partial", "log"):
        (work / directory).mkdir(parents=True, exist_ok=True)
    config = work / "apt.conf"
    config.write_text("\n".join(settings) + "\n")

    def apt(*command: str) -> str | None:
        try:
            done = subprocess.run(
                command,
                cwd=work,
                env=os.environ | {"APT_CONFIG": str(config), "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except OSError:
            return None
        if done.returncode != 0:
            sys.stderr.write(done.stderr.decode(errors="replace"))
            return None
        return done.stdout.decode(errors="replace")

    return apt
