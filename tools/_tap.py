"""Where pg_prove and pgTAP's SQL are: on this machine, else out of Debian packages unpacked into build/pgtap/."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / "build" / "pgtap"
ATTEMPTS = 3
PROVE_PACKAGE = re.compile(r"libtap-parser-sourcehandler-pgtap-perl")
SQL_PACKAGE = re.compile(r"postgresql-(\d+)-pgtap")
SCRIPT = re.compile(r"pgtap--(\d+(?:\.\d+)*)\.sql")
# What pg_prove itself tells psql.
PSQL = "psql --no-psqlrc --no-align --quiet --pset pager=off --pset tuples_only=true --set ON_ERROR_STOP=1"


class TapError(Exception):
    """The tests cannot be run; the message says why and what to do."""


@dataclass(frozen=True)
class Prover:
    """A command that runs the tests whose file names follow it."""

    command: Sequence[str]
    env: dict[str, str] = field(default_factory=dict)


def find_pgtap() -> Path:
    """Return pgTAP's script, fetching it if need be. Raises TapError when it cannot be had."""
    script = _installed_script() or _newest_script(_unpacked("pgtap", SQL_PACKAGE))
    if script is None:
        raise TapError("pgTAP is not installed and apt could not fetch it; install pgTAP beside the pg_config on PATH")
    return script


def find_prover(dbname: str) -> Prover:
    """
    Return pg_prove for tests in a database, fetching it if need be, or prove in its place.

    Raises TapError when neither can be had.
    """
    # Named on the command line, because a PGSERVICE of the caller's would override PGDATABASE.
    database = ["--dbname", dbname]
    if installed := shutil.which("pg_prove"):
        return Prover([installed, *database])
    if perl := shutil.which("perl"):
        tree = _unpacked("pg_prove", PROVE_PACKAGE)
        if tree is not None:
            library = os.pathsep.join(filter(None, [str(tree / "usr/share/perl5"), os.environ.get("PERL5LIB")]))
            pg_prove, env = [perl, str(tree / "usr/bin/pg_prove")], {"PERL5LIB": library}
            # A bare perl lacks the harness that pg_prove is built upon.
            if _output(*pg_prove, "--version", env=env) is not None:
                return Prover([*pg_prove, *database], env)
    if prove := shutil.which("prove"):
        print("pgtap: no pg_prove, using prove in its place", file=sys.stderr)
        return Prover([prove, "--comments", "--exec", " ".join([PSQL, *database, "--file"])])
    raise TapError("pg_prove is not installed and apt could not fetch it; install pg_prove, or perl with its prove")


def _output(*command: str, env: dict[str, str] | None = None) -> str | None:
    try:
        done = subprocess.run(
            command, env=os.environ | (env or {}), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError:
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _newest_script(tree: Path | None) -> Path | None:
    scripts = [path for path in (tree.rglob("pgtap--*.sql") if tree else []) if SCRIPT.fullmatch(path.name)]
    return max(scripts, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], default=None)


def _installed_script() -> Path | None:
    share = _output("pg_config", "--sharedir")
    return _newest_script(Path(share.strip()) / "extension") if share else None


def _unpacked(slot: str, package: re.Pattern[str]) -> Path | None:
    """Return the tree of a package, fetched on the first call; None when it cannot be fetched."""
    tree = CACHE / slot
    if tree.is_dir():
        return tree
    if not all(map(shutil.which, ("apt-get", "apt-cache", "apt-config", "dpkg-deb"))):
        return None
    CACHE.mkdir(parents=True, exist_ok=True)
    print(f"pgtap: fetching {slot} once, into {CACHE}", file=sys.stderr)
    # Only a whole tree gets the name that later runs trust.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=CACHE, ignore_cleanup_errors=True) as name:
        partial = Path(name)
        for _ in range(ATTEMPTS):
            if _fetch(package, partial):
                (partial / "tree").chmod(0o755)
                # Another run may have been faster.
                with suppress(OSError):
                    (partial / "tree").rename(tree)
                break
    return tree if tree.is_dir() else None


def _fetch(package: re.Pattern[str], work: Path) -> bool:
    """Fetch and unpack a package below `work`; tell whether that succeeded."""
    apt = _private_apt(work)
    # Fails as well for a source that has nothing to do with the package: only the download decides.
    apt("apt-get", "update")
    names = [n for n in (apt("apt-cache", "pkgnames") or "").split() if package.fullmatch(n)]
    if not names:
        return False
    newest = max(names, key=lambda n: int("".join(re.findall(r"\d+", n)) or 0))
    for old in work.glob("*.deb"):
        old.unlink()
    if apt("apt-get", "download", newest) is None:
        return False
    return all(_output("dpkg-deb", "-x", str(deb), str(work / "tree")) is not None for deb in work.glob("*.deb"))


def _private_apt(work: Path) -> Callable[..., str | None]:
    """Return a function that runs apt with the machine's sources and keys, but all it writes below `work`."""
    machine = _output("apt-config", "dump") or ""
    # The machine's hooks clean or refresh the machine's own directories.
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
