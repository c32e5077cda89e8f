"""
Run pgTAP files with pg_prove, in a new database on the server that libpq's environment variables name.

    python tools/pgtap.py [--load FILE]... [--verbose] TEST.sql...

pgTAP is installed in schema pgtap, at the end of the database's search_path; public holds only what --load creates.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from postgres.children import Terminated, ignored, raise_on_signals, restore, run
from postgres.tap import TapError, find_pgtap, find_prover

PSQL = ("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1")


def _psql(*arguments: str, dbname: str, script: str | None = None) -> None:
    done = subprocess.run(
        [*PSQL, "-d", dbname, *arguments],
        input=(script or "").encode(),
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        raise TapError(f"psql {' '.join(arguments)} failed with status {done.returncode}; its message is above")


@contextmanager
def _database(name: str) -> Iterator[None]:
    """Create a database; drop it at the end, also after an error."""
    maintenance = os.environ.get("PGDATABASE", "postgres")
    ours = True
    try:
        try:
            # template0, because template1 may hold objects of the server's owner.
            _psql("-c", f"CREATE DATABASE {name} TEMPLATE template0", dbname=maintenance)
        except TapError:
            ours = False
            raise
        yield
    finally:
        if ours:
            drop = f"SET client_min_messages = error;\nDROP DATABASE IF EXISTS {name} WITH (FORCE);"
            with ignored():
                _psql("-f", "-", dbname=maintenance, script=drop)


def install(script: Path, dbname: str) -> None:
    """Install pgTAP without CREATE EXTENSION, which reads only the server's own directories."""
    text = script.read_text(encoding="utf-8").splitlines(keepends=True)
    lines = [line for line in text if not line.startswith(r"\echo")]
    # The default since PostgreSQL 15. pgq refuses to grant in a schema where PUBLIC may create objects.
    _psql("-c", "REVOKE CREATE ON SCHEMA public FROM PUBLIC", dbname=dbname)
    settings = "CREATE SCHEMA pgtap; SET search_path = pgtap; SET client_min_messages = warning;\n"
    _psql("-1", "-f", "-", dbname=dbname, script=settings + "".join(lines))
    _psql("-c", f"ALTER DATABASE {dbname} SET search_path = public, pgtap", dbname=dbname)


def _prove(load: Sequence[str], tests: Sequence[str], verbose: bool) -> int:
    name = f"pgq_test_{os.getpid()}"
    script, prover = find_pgtap(), find_prover(name)
    with _database(name):
        install(script, name)
        for file in load:
            _psql("-f", file, dbname=name)
        flags = ["--verbose"] if verbose else []
        return run([*prover.command, *flags, *tests], os.environ | prover.env)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests; return pg_prove's status, 2 if they cannot be run, or 128 plus a signal's number."""
    parser = argparse.ArgumentParser(prog="pgtap.py", description="Run pgTAP files in a new database.")
    parser.add_argument("--load", action="append", default=[], metavar="FILE", help="run this SQL file first")
    parser.add_argument("--verbose", action="store_true", help="show every test")
    parser.add_argument("tests", nargs="*", metavar="TEST.sql")
    options = parser.parse_args(argv)
    if not options.tests:
        # To pg_prove no tests are a success.
        parser.error("no tests given")
    if missing := [file for file in (*options.load, *options.tests) if not Path(file).is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    handlers = raise_on_signals()
    try:
        return _prove(options.load, options.tests, options.verbose)
    except (TapError, OSError) as error:
        print(f"pgtap: {error}", file=sys.stderr)
        return 2
    except Terminated as stop:
        return stop.status
    finally:
        restore(handlers)


if __name__ == "__main__":
    sys.exit(main())
