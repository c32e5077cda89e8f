"""Find pg_prove and pgTAP's SQL script: installed on this machine, else from Debian packages."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from postgres.debian import output, unpacked

PROVE_PACKAGE = re.compile(r"libtap-parser-sourcehandler-pgtap-perl")
SQL_PACKAGE = re.compile(r"postgresql-(\d+)-pgtap")
SCRIPT = re.compile(r"pgtap--(\d+(?:\.\d+)*)\.sql")
# The options that pg_prove gives to psql.
PSQL = "psql --no-psqlrc --no-align --quiet --pset pager=off --pset tuples_only=true --set ON_ERROR_STOP=1"


class TapError(Exception):
    """The tests cannot be run. The message says why, and what to do."""


@dataclass(frozen=True)
class Prover:
    """A command that runs tests; their file names are appended."""

    command: Sequence[str]
    env: dict[str, str] = field(default_factory=dict)


def find_pgtap() -> Path:
    """Return the path of pgTAP's script; fetch it if necessary. Raises TapError if there is none."""
    script = _installed_script() or _newest_script(unpacked("pgtap", SQL_PACKAGE))
    if script is None:
        raise TapError("pgTAP is not installed and apt cannot fetch it; install it for the pg_config on PATH")
    return script


def find_prover(dbname: str) -> Prover:
    """
    Return pg_prove for tests in a database, fetched if necessary, or prove as a substitute.

    Raises TapError if there is neither.
    """
    # On the command line, because the caller's PGSERVICE would override PGDATABASE.
    database = ["--dbname", dbname]
    if installed := shutil.which("pg_prove"):
        return Prover([installed, *database])
    if perl := shutil.which("perl"):
        tree = unpacked("pg_prove", PROVE_PACKAGE)
        if tree is not None:
            library = os.pathsep.join(filter(None, [str(tree / "usr/share/perl5"), os.environ.get("PERL5LIB")]))
            pg_prove, env = [perl, str(tree / "usr/bin/pg_prove")], {"PERL5LIB": library}
            # A minimal perl lacks the test harness that pg_prove needs.
            if output(*pg_prove, "--version", env=env) is not None:
                return Prover([*pg_prove, *database], env)
    if prove := shutil.which("prove"):
        print("pgtap: no pg_prove found; using prove", file=sys.stderr)
        return Prover([prove, "--comments", "--exec", " ".join([PSQL, *database, "--file"])])
    raise TapError("pg_prove is not installed and apt cannot fetch it; install pg_prove, or perl with prove")


def _newest_script(tree: Path | None) -> Path | None:
    scripts = [path for path in (tree.rglob("pgtap--*.sql") if tree else []) if SCRIPT.fullmatch(path.name)]
    return max(scripts, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], default=None)


def _installed_script() -> Path | None:
    share = output("pg_config", "--sharedir")
    return _newest_script(Path(share.strip()) / "extension") if share else None
