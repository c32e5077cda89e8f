"""
Check the SQL beyond what PostgreSQL checks when it loads it.

    python tools/check_sql.py build/pgq.sql

A test must raise each error message, plpgsql_check must find nothing in any function, and squawk must find nothing in
an upgrade script. plpgsql_check comes from Debian packages, unpacked into build/debian/; if they cannot be fetched, the
output says so, and the rest is checked.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
from postgres.debian import unpacked
from postgres.programs import Account, DevpgError, check_programs
from postgres.server import Server

ROOT = Path(__file__).resolve().parent.parent
# A message: after RAISE EXCEPTION, or in an array of SQLSTATE, message and hint, where it may be inside format().
RAISED = re.compile(r"RAISE EXCEPTION\s+'((?:[^']|'')*)'|ARRAY\['\w{5}',\s*(?:format\()?'((?:[^']|'')*)'")
# Reports of plpgsql_check on correct code, each with the reason.
ACCEPTED = {
    # An untyped literal has the type "unknown" until it is assigned to its variable.
    "target type is different type than source type",
    # A LOOP without a condition ends only by RETURN.
    "control reached end of function without RETURN",
    # Assigned instead of a PERFORM, which would be one more statement.
    'never read variable "v_awake"',
    'never read variable "v_told"',
    'never read variable "v_elsewhere"',
    # _pgq_lock_next returns a row of the same shape as _pgq_lock_in_turn, for the same caller.
    'unmodified OUT variable "locked_at"',
    'unmodified OUT variable "oldest"',
}
CHECK = """
SELECT f.oid::regprocedure::text, c.lineno, c.level, c.message
FROM pg_proc AS f
JOIN pg_language AS l ON l.oid = f.prolang AND l.lanname = 'plpgsql'
CROSS JOIN LATERAL plpgsql_check_function_tb(
    f.oid, fatal_errors => false, extra_warnings => true, security_warnings => true, compatibility_warnings => true
) AS c
WHERE f.pronamespace = 'jobs'::regnamespace
ORDER BY 1, 2
"""


def untested_messages() -> Iterator[str]:
    """Yield the error messages that occur in no test, not even in part."""
    tests = "\n".join(
        path.read_text(encoding="utf-8")
        for pattern in ("sql/*.sql", "python/**/*.py")
        for path in sorted((ROOT / "tests").glob(pattern))
    )
    # Scripts that install a release, or upgrade to one, do not change any more; the messages in sql/ may.
    released = {path.stem.rpartition("--")[2] for path in (ROOT / "sql" / "released").iterdir()}
    for path in sorted((ROOT / "sql").glob("**/*.sql")):
        if path.stem.rpartition("--")[2] in released:
            continue
        for match in RAISED.finditer(path.read_text(encoding="utf-8")):
            message = (match[1] or match[2] or "").replace("''", "'")
            # The longest piece between placeholders must occur in a test.
            piece = max(re.split(r"%s?(?!\w)|@\w+@", message), key=len).strip(' "')
            if piece and piece not in tests:
                yield f"{path.relative_to(ROOT)}: no test raises: {message}"


def plpgsql_problems(script: Path) -> Iterator[str]:
    """Yield the reports of plpgsql_check. Raises DevpgError if it cannot be fetched or run."""
    tree = unpacked("plpgsql_check", re.compile(r"postgresql-\d+"), re.compile(r"postgresql-\d+-plpgsql-check"))
    if tree is None:
        raise DevpgError("cannot fetch its Debian package")
    account = Account()
    with tempfile.TemporaryDirectory(prefix="pgq-check-", dir=account.temporary_base("pgq-check-12345678")) as name:
        if not account.can_run(next(tree.glob("usr/lib/postgresql/*/bin"))):
            Path(name).chmod(0o755)
            tree = Path(shutil.copytree(tree, Path(name) / "tree", symlinks=True))
        bindir = next(tree.glob("usr/lib/postgresql/*/bin"))
        check_programs(bindir)
        with (
            Server(bindir=bindir) as server,
            psycopg.connect(
                host=server.host, port=server.port, user=server.user, dbname=server.dbname, autocommit=True
            ) as conn,
        ):
            conn.execute("CREATE EXTENSION plpgsql_check SCHEMA public")
            conn.execute("CREATE SCHEMA jobs; SET search_path = jobs, public")
            conn.execute(script.read_bytes())
            for function, line, level, message in conn.execute(CHECK).fetchall():
                if message not in ACCEPTED:
                    yield f"{function}, line {line}: {level}: {message}"


def squawk_problems(scripts: Sequence[Path]) -> Iterator[str]:
    """Yield the reports of squawk on complete upgrade scripts; each script names the rules that it is exempt from."""
    if scripts:
        squawk = Path(sys.executable).with_name("squawk")
        done = subprocess.run(
            [squawk, "--config", ROOT / "tools" / "squawk.toml", *scripts], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            yield (done.stdout + done.stderr).strip()


def main(script: Path) -> int:
    """Check a script; print the problems; return the exit status."""
    problems = [*untested_messages(), *squawk_problems(sorted((ROOT / "build" / "complete").glob("*.sql")))]
    checked = "plpgsql_check"
    try:
        problems += plpgsql_problems(script)
    except DevpgError as reason:
        checked = f"no plpgsql_check: {reason}"
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"check_sql: {len(problems)} problems ({checked})")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
