"""
Run the tests of the app for Django under Python 3.11 with Django 5.2 and the package django-tasks, and under a newer
Python with Django 6; for each, also the tests that Django has for its own backends of tasks.

    python tools/django_matrix.py

Each Python gets an environment of its own in build/django. A Python that is not installed is left out, and a notice
says so. Django's tests are in its source archive, which pip gets.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matrix import Python, find_python
from postgres.children import Terminated, raise_on_signals, restore, run
from postgres.programs import find_bindir
from postgres.versions import full_version

ROOT: Final = Path(__file__).resolve().parent.parent
BUILD: Final = ROOT / "build" / "django"
PROJECT: Final = ROOT / "tests" / "django_project"
# The release whose tests are run, also with the backport.
SUITE: Final = "6.1.3"
# Names of errors that the backport has with Error behind them, up to version 0.12.
RENAMED: Final = ("InvalidTask", "InvalidTaskBackend")


@dataclass(frozen=True)
class Cell:
    """A combination: the Pythons that will do, the first that is installed is taken, and what is installed there."""

    name: str
    pythons: tuple[str, ...]
    packages: tuple[str, ...]
    backport: bool = False
    oldest_server: int = 14


CELLS: Final = (
    Cell("django5", ("3.11",), ("django>=5.2,<6", "django-tasks>=0.12,<0.13"), backport=True),
    Cell("django6", ("3.12", "3.13", "3.14"), ("django>=6,<7",), oldest_server=15),
)


def prepare(cell: Cell, python: Python) -> Path:
    """Return the Python of an environment with the packages, which is made if it is not there."""
    venv = BUILD / f"{cell.name}-{python.version}"
    program = venv / "bin" / "python"
    if not (venv / "ready").exists():
        subprocess.run([python.program, "-m", "venv", venv], check=True)
        pip: list[str | Path] = [program, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--editable", f"{ROOT / 'python'}[binary]", *cell.packages], check=True)
        (venv / "ready").touch()
    return program


def suite(cell: Cell) -> Path:
    """Return a directory with the package ``tasks`` of Django's tests, which is fetched if it is not there."""
    target = BUILD / f"suite-{SUITE}{'-backport' if cell.backport else ''}"
    if target.exists():
        return target
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # Whatever Python runs this: Django refuses older ones.
    pip += ["--python-version", "3.14", "--no-binary", ":all:"]
    with tempfile.TemporaryDirectory(dir=BUILD) as directory:
        subprocess.run([*pip, "--dest", directory, f"django=={SUITE}"], check=True)
        (archive,) = Path(directory).glob("*.tar.gz")
        made = Path(directory) / "made"
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = Path(member.name).parts
                if parts[1:3] == ("tests", "tasks") and parts[-1].endswith(".py") and (file := tar.extractfile(member)):
                    text = file.read().decode()
                    path = made / "tasks" / parts[-1]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(as_backport(text) if cell.backport else text)
        made.rename(target)
    return target


def as_backport(text: str) -> str:
    """Return the text of a test with the names of the backport."""
    text = re.sub(r"\bdjango\.tasks\b", "django_tasks", text)
    text = text.replace(
        "from django_tasks import Task, ", "from django_tasks.base import Task\nfrom django_tasks import "
    )
    for name in RENAMED:
        text = re.sub(rf"\b{name}\b", f"{name}Error", text)
    return text


def main() -> int:
    """Run all combinations; return 0 if those that were run passed, or 128 plus a signal's number."""
    BUILD.mkdir(parents=True, exist_ok=True)
    failed = []
    server = full_version(find_bindir())
    handlers = raise_on_signals()
    try:
        for cell in CELLS:
            python = next(filter(None, map(find_python, cell.pythons)), None)
            if python is None:
                print(
                    f"notice: {cell.name} was not tested, because Python {' or '.join(cell.pythons)} is not installed"
                )
                continue
            if int(server.partition(".")[0]) < cell.oldest_server:
                print(f"notice: {cell.name} was not tested, because it refuses PostgreSQL {server}")
                continue
            program = prepare(cell, python)
            print(f"{cell.name}, Python {python.version}", flush=True)
            env = os.environ | {"PYTHONPATH": str(suite(cell))}
            tests = [str(program), "-W", "ignore", str(PROJECT / "manage.py"), "test", "--noinput", "shop", "suites"]
            if run([sys.executable, str(ROOT / "tools/devpg.py"), "run", "--", *tests], env):
                failed.append(cell.name)
    except Terminated as stop:
        return stop.status
    finally:
        restore(handlers)
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
