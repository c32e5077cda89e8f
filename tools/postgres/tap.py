"""Where pg_prove and pgTAP's SQL are: on this machine, else out of Debian packages."""

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
    script = _installed_script() or _newest_script(unpacked("pgtap", SQL_PACKAGE))
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
        tree = unpacked("pg_prove", PROVE_PACKAGE)
        if tree is not None:
            library = os.pathsep.join(filter(None, [str(tree / "usr/share/perl5"), os.environ.get("PERL5LIB")]))
            pg_prove, env = [perl, str(tree / "usr/bin/pg_prove")], {"PERL5LIB": library}
            # A bare perl lacks the harness that pg_prove is built upon.
            if output(*pg_prove, "--version", env=env) is not None:
                return Prover([*pg_prove, *database], env)
    if prove := shutil.which("prove"):
        print("pgtap: no pg_prove, using prove in its place", file=sys.stderr)
        return Prover([prove, "--comments", "--exec", " ".join([PSQL, *database, "--file"])])
    raise TapError("pg_prove is not installed and apt could not fetch it; install pg_prove, or perl with its prove")


def _newest_script(tree: Path | None) -> Path | None:
    scripts = [path for path in (tree.rglob("pgtap--*.sql") if tree else []) if SCRIPT.fullmatch(path.name)]
    return max(scripts, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], default=None)


def _installed_script() -> Path | None:
    share = output("pg_config", "--sharedir")
    return _newest_script(Path(share.strip()) / "extension") if share else None
