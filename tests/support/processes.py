"""Worker processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Start = Callable[..., "subprocess.Popen[str]"]
TASKS = """
import pathlib, time
import pgq

@pgq.handler("slow")
def slow(job):
    # Signal the start, and return as soon as the test permits.
    pathlib.Path(f"begun-{job.args}-{job.attempt}").touch()
    deadline = time.monotonic() + 20
    while not pathlib.Path(f"go-{job.args}").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
"""


@pytest.fixture
def start(dsn: str, tmp_path: Path) -> Iterator[Start]:
    """Start ``pgq worker`` on the tasks above; processes that still run at the end are killed."""
    (tmp_path / "tasks.py").write_text(TASKS)
    running: list[subprocess.Popen[str]] = []

    def start(*options: str, **more: Any) -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen(
                [Path(sys.executable).with_name("pgq"), "--dsn", dsn, "worker", "tasks", *options],
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
        process.communicate()
