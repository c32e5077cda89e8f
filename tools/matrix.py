"""
Run `make test-all` on several PostgreSQL servers and under several Pythons; print a table of the results.

    python tools/matrix.py --servers 14 18 --pythons 3.11 3.13

The output of each run goes to build/matrix/SERVER-PYTHON.log. A Python that is not installed is left out, and the
table says so; a server that cannot be fetched makes the matrix fail.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from postgres.children import Terminated, raise_on_signals, restore, run
from postgres.programs import DevpgError
from postgres.versions import find_clients, find_server, full_version

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "matrix"
PROBE = "import ensurepip, platform, sys, venv; print(sys.executable, platform.python_version(), sep='\\n')"
HEADINGS = ("PostgreSQL", "Python", "pgTAP", "pytest", "make test-all")
PGTAP = re.compile(r"^Files=(\d+), Tests=(\d+),.*\nResult: (\w+)", re.MULTILINE)
PYTEST = re.compile(r"^(?:=+ )?(\d+ \w+(?:, \d+ \w+)*) in [\d.]+s", re.MULTILINE)


@dataclass(frozen=True)
class Python:
    """A Python interpreter and its full version."""

    program: str
    version: str


@dataclass(frozen=True)
class Row:
    """A row of the table, and whether its run passed."""

    texts: tuple[str, ...]
    good: bool


def find_python(version: str) -> Python | None:
    """Return a Python of this version that can create a virtual environment, from PATH or pyenv."""
    pyenv = glob.escape(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"))
    installed = sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python{version}"), key=_numbers, reverse=True)
    # A program on PATH may be a pyenv shim without an interpreter.
    for program in (f"python{version}", *installed):
        try:
            done = subprocess.run([program, "-c", PROBE], capture_output=True, text=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return Python(*done.stdout.split("\n")[:2])
    return None


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def run_cell(bindir: Path, clients: Path | None, python: Python, log: Path) -> Row:
    """Run all tests on a server under a Python, even if some fail."""
    # Make's own variables would pass options such as -j from an outer make to this one.
    env = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}}
    env |= {"PGQ_BINDIR": str(bindir), "PYTEST_ADDOPTS": f"{env.get('PYTEST_ADDOPTS', '')} -rs"}
    if clients is not None:
        env["PATH"] = os.pathsep.join([str(clients), env.get("PATH", os.defpath)])
    venv = BUILD / f"venv-{python.version}"
    make = ["make", "--keep-going", "-C", str(ROOT), f"VENV={venv.relative_to(ROOT)}", f"PYTHON={python.program}"]
    with log.open("wb") as output:
        status = run([*make, "test-all"], env, output)
    return judge(full_version(bindir), python.version, status, log.read_text(errors="replace"))


def judge(server: str, python: str, status: int, printed: str) -> Row:
    """Read the summary lines of pgTAP and pytest; a run without both has failed."""
    pgtap = [f"{result}, {tests} tests in {files} files" for files, tests, result in PGTAP.findall(printed)]
    pytest = PYTEST.findall(printed)
    good = status == 0 and bool(pgtap) and bool(pytest)
    summaries = (kind[-1] if kind else "no summary" for kind in (pgtap, pytest))
    return Row((server, python, *summaries, "passed" if good else f"failed ({status})"), good)


def rows(servers: Sequence[str], pythons: Sequence[Python]) -> Iterator[Row]:
    """Run all combinations one after the other, because the tests measure time."""
    clients = find_clients()
    for major in servers:
        try:
            bindir = find_server(major)
        except DevpgError as error:
            yield Row((major, "", "", "", f"not run: {error}"), False)
            continue
        for python in pythons:
            log = BUILD / f"{major}-{python.version.rpartition('.')[0]}.log"
            began = time.monotonic()
            row = run_cell(bindir, clients, python, log)
            print(f"{', '.join(row.texts)} ({time.monotonic() - began:.0f} s, {log.relative_to(ROOT)})", flush=True)
            yield row


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return lines as a Markdown table; the first line is its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *text[1:]])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the matrix; return 0 if every run passed, 1 if one did not, or 128 plus a signal's number."""
    parser = argparse.ArgumentParser(prog="matrix.py", description="Run make test-all on several servers and Pythons.")
    parser.add_argument("--servers", nargs="+", required=True, metavar="MAJOR")
    parser.add_argument("--pythons", nargs="+", required=True, metavar="3.N")
    options = parser.parse_args(argv)
    found = {version: find_python(version) for version in options.pythons}
    pythons = [python for python in found.values() if python is not None]
    left_out = [version for version, python in found.items() if python is None]
    if not pythons:
        parser.error(f"none of these Pythons is installed: {', '.join(left_out)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    handlers = raise_on_signals()
    try:
        ran = list(rows(options.servers, pythons))
    except Terminated as stop:
        return stop.status
    finally:
        restore(handlers)
    print("", table([HEADINGS, *(row.texts for row in ran)]), sep="\n")
    if left_out:
        print(f"\nLeft out, not installed: Python {', '.join(left_out)}")
    return 0 if all(row.good for row in ran) else 1


if __name__ == "__main__":
    sys.exit(main())
