"""The torture run loses no job and repeats no effect, and it catches broken builds."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import ROOT
from support.threads import eventually
from torture import broken, several
from torture.faults import FaultPlan
from torture.run import Plan, torture
from torture.verdict import Verdict

NOTHING = "0 lost, 0 doubled, 0 skipped, 0 left, 0 beyond limits"


def test_nothing_is_lost_doubled_or_left_in_a_short_run(tmp_path: Path) -> None:
    """The run has four seconds and one crash of the server."""
    log = tmp_path / "log"
    verdict = torture(Plan(seconds=4, jobs=50, seed=9, restarts=1, faults=FaultPlan(every=0.2)), log).verdict
    assert verdict.is_clean, f"{verdict}\n{log.read_text()[-5000:]}"
    assert verdict.line == (
        f"{verdict.jobs:,} jobs, {verdict.steps:,} steps, {verdict.followed:,} after others, {verdict.kills} kills, "
        f"1 restarts: {NOTHING}"
    )
    assert verdict.jobs > 20
    assert verdict.steps > 0
    assert verdict.kills > 0


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_left(tmp_path: Path) -> None:
    """The run has 15 seconds of kills, freezes, stops, cut connections and two crashes of the server."""
    log = tmp_path / "log"
    run = torture(Plan(seconds=15, jobs=200, seed=9), log)
    verdict = run.verdict
    assert verdict.is_clean, f"{verdict}\n{log.read_text()[-5000:]}"
    assert verdict.line == (
        f"{verdict.jobs:,} jobs, {verdict.steps:,} steps, {verdict.followed:,} after others, {verdict.kills} kills, "
        f"2 restarts: {NOTHING}"
    )
    # The run was not an easy one.
    assert verdict.jobs > 100
    assert verdict.steps > 100
    assert verdict.followed > 5
    assert all(run.counts[act] > 0 for act in ("kill", "freeze", "stop", "stop twice", "cut", "cut all"))
    assert run.undone > 10
    assert run.dead > 0
    assert run.duplicates > 10
    assert run.repeated > 0


def clean(run: several.Run, log: Path) -> None:
    """Fail unless all promises were kept in each database."""
    assert run.is_clean, f"{run}\n{log.read_text()[-5000:]}"
    assert run.line.endswith(f": {NOTHING}, 0 times stopped by another")
    assert len(run.verdicts) == 4
    assert all(verdict.jobs > 0 for verdict in run.verdicts.values())


@pytest.mark.slow
@pytest.mark.happens("one of several databases is not available")
def test_nothing_is_lost_in_four_databases_in_a_short_run(tmp_path: Path) -> None:
    """One server is killed, one is frozen, and one fails over; one worker serves all of them."""
    log = tmp_path / "log"
    run = several.torture(several.SHORT, log)
    clean(run, log)
    assert {name: run.counts[name] for name in ("killed", "frozen", "failed over")} == {
        "killed": 1, "frozen": 1, "failed over": 1,
    }  # fmt: skip


@pytest.mark.slow
def test_nothing_is_lost_in_four_databases(tmp_path: Path) -> None:
    """Several workers serve all of them, and are killed, frozen and stopped, too."""
    log = tmp_path / "log"
    run = several.torture(several.Plan(seed=9), log)
    clean(run, log)
    assert all(run.counts[name] > 0 for name in ("failed over", "worker kill", "worker freeze", "worker stop"))
    assert run.counts["killed"] == run.counts["frozen"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        broken.without_tokens,
        broken.without_refusal,
        broken.with_separate_completion,
        broken.with_late_steps,
        broken.with_steps_saved_apart,
        broken.with_flows_committed_first,
        broken.without_a_second_look_for_signals,
        broken.without_all_prerequisites,
        broken.without_the_lock_of_the_queue,
        broken.with_the_count_before_the_lock,
        broken.without_the_lock_of_the_order,
        broken.without_the_notes_of_the_rate,
    ],
    ids=lambda build: build.__name__,
)
def test_a_broken_build_is_caught(build: broken.Build, tmp_path: Path) -> None:
    """A run of 20 seconds finds the symptom of the defect. On a loaded machine a second or third one may have to."""
    for seed in (1, 2, 3):
        plan = build(seed=seed)
        verdict = torture(plan, tmp_path / f"log {seed}").verdict
        assert plan.symptom is not None
        if any(plan.symptom in line for line in verdict.lost + verdict.doubled + verdict.skipped + verdict.beyond):
            break
    else:
        pytest.fail(verdict.line)
    assert not verdict.is_clean


@pytest.mark.parametrize("what", ["lost", "doubled", "skipped", "left", "beyond", "crashes"])
def test_one_defect_spoils_the_verdict(what: str) -> None:
    """Any of the numbers does, and so does a worker that ended without a reason."""
    nothing: dict[str, list[str]] = {name: [] for name in ("lost", "doubled", "skipped", "left", "beyond", "crashes")}
    assert Verdict(1, 0, 0, 0, 0, **nothing).is_clean
    assert not Verdict(1, 0, 0, 0, 0, **{**nothing, what: ["x"]}).is_clean


def marked(mark: str) -> list[tuple[int, str]]:
    """Return the processes with this in their environment, and their states."""
    found: list[tuple[int, str]] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((int(process.name), (process / "stat").read_text().rpartition(")")[2].split()[0]))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_interrupted_run_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    """Some of its processes are frozen when it is interrupted."""
    mark = f"TORTURE_OF={tmp_path}"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    # The account of the server needs access.
    tmp_path.chmod(0o755)
    temporary.chmod(0o777)
    process = subprocess.Popen(
        [sys.executable, "-m", "torture", "--seed", "1", "--log", str(tmp_path / "log")],
        env=os.environ
        | {
            "TORTURE_OF": str(tmp_path),
            "TMPDIR": str(temporary),
            "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("tests", "tools")),
        },
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        # SIGINT may be ignored when the tests run in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        eventually(lambda: any(state == "T" for _, state in marked(mark)), "a worker is frozen", 40)
        assert len(list(temporary.iterdir())) == 2
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
        assert marked(mark) == []
        assert list(temporary.iterdir()) == []
    finally:
        process.kill()
        process.wait()
