"""The Python worker keeps the protocol of docs/protocol.md, and the conformance program catches workers that do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conformance.faults import FAULTS
from conformance.scenarios import SCENARIOS
from support.pages import Page, cells
from support.paths import ROOT
from support.processes import COMMAND

WORKER = f"{COMMAND} worker conformance.handlers --queue conformance --lease 3s"
PRODUCER = f"{COMMAND} enqueue --queue conformance"


def conform(tmp_path: Path, worker: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Play scenarios against a worker."""
    command = [sys.executable, "-m", "conformance", "--log", str(tmp_path / "log"), *options, worker]
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT / 'tools'}"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def rows(output: str) -> dict[str, str]:
    """Return what the program says of each point."""
    return {
        line[13:46].strip(): line[46:] for line in output.splitlines() if line.startswith(("required", "recommended"))
    }


@pytest.mark.slow
def test_the_python_worker_keeps_the_protocol(tmp_path: Path) -> None:
    """It passes what is required, and what is recommended."""
    done = conform(tmp_path, WORKER, "--producer", PRODUCER, "--stride", "3")
    assert set(rows(done.stdout).values()) == {"passed"}, done.stdout + (tmp_path / "log").read_text()[-5000:]
    assert rows(done.stdout).keys() >= {scenario.name for scenario in (*SCENARIOS, *FAULTS)}
    assert "0 lost, 0 doubled, 0 left" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("defect", "scenario", "why"),
    [
        ("no_token", "frozen, and the lease is lost", "FAILED: more effects than allowed"),
        ("no_extension", "slow beyond its lease", "needed another attempt: its lease was lost"),
        ("ack_first", "killed while busy", "FAILED: done without an effect"),
        ("batch no_extension", "jobs of a batch", "a lease was lost"),
        ("batch ack_late", "killed within a batch", "FAILED: more effects than allowed"),
    ],
)
def test_a_broken_worker_is_caught(tmp_path: Path, defect: str, scenario: str, why: str) -> None:
    """It is caught by what its defect costs, and the same worker without the defect passes."""
    broken = conform(tmp_path, f"{sys.executable} -m conformance.broken {defect}", "--only", scenario)
    assert why in rows(broken.stdout)[scenario], broken.stdout
    assert broken.returncode == 1
    is_batch = defect.startswith("batch")
    whole = conform(tmp_path, f"{sys.executable} -m conformance.broken {'batch' * is_batch}", "--only", scenario)
    assert rows(whole.stdout)[scenario] == "passed"
    assert whole.returncode == 0
    assert ("packed" in (tmp_path / "log").read_text()) == is_batch


def test_the_page_lists_the_scenarios() -> None:
    """It says of each whether it is required."""
    table = Page("docs/protocol.md").section("The scenarios")
    said = list(zip(cells(table), cells(table, 1), strict=True))
    assert said == [(one.name, "yes" if one.is_required else "no") for one in (*SCENARIOS, *FAULTS)]


def test_a_worker_that_cannot_start_fails(tmp_path: Path) -> None:
    """No job is over then."""
    done = conform(tmp_path, "false", "--only", "stop while idle")
    assert "FAILED: left: conformance.write 1 is waiting" in done.stdout
    assert done.returncode == 1
