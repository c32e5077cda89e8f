"""The command line: worker processes, and commands with and without a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pytest
from click.testing import CliRunner

from pgq.cli import main

Start = Callable[..., "subprocess.Popen[str]"]
COMMAND = Path(sys.executable).with_name("pgq")
TASKS = """
import pathlib, time
import pgq

@pgq.handler("slow")
def slow(job):
    # Signal the start, and return as soon as the test permits.
    pathlib.Path(f"begun-{job.args}-{job.attempt}").touch()
    deadline = time.monotonic() + 60
    while not pathlib.Path(f"go-{job.args}").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
"""


@dataclass(frozen=True)
class Done:
    """The output of a command, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


def invoke(*arguments: str, stdin: str | bytes | None = None) -> Done:
    """Run a command in this process, in 5 ms instead of 300. Raise an exception that the command does not handle."""
    result = CliRunner().invoke(main, arguments, input=stdin, prog_name="pgq", catch_exceptions=False)
    return Done(result.exit_code, result.stdout, result.stderr)


def installed(*arguments: str, cwd: Path | None = None, stdin: TextIO | None = None) -> Done:
    """Run the installed program in a process."""
    done = subprocess.run(
        [COMMAND, *arguments], cwd=cwd, stdin=stdin, capture_output=True, text=True, check=False, timeout=60
    )
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def start(dsn: str, tmp_path: Path) -> Iterator[Start]:
    """
    Start ``pgq worker`` on the tasks above; processes that still run at the end are killed.

    The logs of all are printed at the end, so pytest shows them when the test fails.
    """
    (tmp_path / "tasks.py").write_text(TASKS)
    running: list[subprocess.Popen[str]] = []

    def start(*options: str, **more: Any) -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen(
                [COMMAND, "--dsn", dsn, "worker", "tasks", *options],
                cwd=tmp_path,
                stderr=subprocess.PIPE,
                text=True,
                **more,
            )
        )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        _, log = process.communicate()
        print(f"the log of process {process.pid}, which ended with {process.returncode}:\n{log}")
