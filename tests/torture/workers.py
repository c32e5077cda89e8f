"""The workers of the run: processes of the command "pgq worker". Each is replaced when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from postgres.children import ignored, in_child, masked

from torture import limits

HERE = Path(__file__).parent
# One worker of each kind: one loop, several threads, several processes, without session state, and without handlers for
# some kinds.
OPTIONS = (
    ("--concurrency", "1"),
    ("--concurrency", "4", "--queue-order", "rotate"),
    ("--processes", "2", "--queue-order", "rotate"),
    ("--transaction-pooler",),
    ("torture.fewer",),
)
# Stopped or killed. Before a process has installed its signal handlers, SIGTERM kills it.
ORDINARY_ENDS = frozenset({0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM})
STOPS_WITHIN = 30.0


class Process(NamedTuple):
    """A process. Its start time tells it from a later process with the same number."""

    pid: int
    started: str


@dataclass
class Slot:
    """The options of a worker, and the process that runs with them now; its successor takes the same slot."""

    options: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    health: Path | None = None


@dataclass
class Workers:
    """Workers from ``__enter__`` to ``__exit__``, which leaves none of their processes behind."""

    dsn: str
    scratch: Path
    log: Path
    lease: float
    modules: tuple[str, ...]
    options: Sequence[tuple[str, ...]] = OPTIONS
    crashes: list[str] = field(default_factory=list)
    frozen: set[Process] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.slots = [Slot(options) for options in self.options]
        self._seen: set[Process] = set()
        self._started = 0

    def __enter__(self) -> Workers:
        self.replace_ended()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ignored():
            # A frozen process does not notice that its supervisor is gone.
            for process in {*self.processes(), *self.frozen}:
                self.signal(process, signal.SIGKILL)
            for slot in self.slots:
                if slot.process is not None:
                    slot.process.wait()
            # Processes of pools outlive their workers.
            give_up_at = time.monotonic() + STOPS_WITHIN
            while time.monotonic() < give_up_at:
                left = [process for process in {*self._seen, *self._orphans()} if _is_alive(process)]
                if not left:
                    break
                for process in left:
                    self.signal(process, signal.SIGKILL)
                time.sleep(0.01)

    def replace_ended(self) -> None:
        """Replace workers that have ended; note a crash for those that had no reason to end."""
        for slot in self.slots:
            if slot.process is not None and slot.process.poll() is not None:
                self._clear(slot)
            if slot.process is None:
                self._start(slot)

    def processes(self) -> list[Process]:
        """Return all processes, including supervisors, their children, and the children of these."""
        found: list[Process] = []
        for slot in self.slots:
            if slot.process is not None and slot.process.poll() is None:
                pid = slot.process.pid
                found += [Process(each, _stat(each)[1]) for each in (pid, *children(pid))]
        self._seen.update(found)
        return found

    def _orphans(self) -> list[Process]:
        """Return the processes that have the environment of a worker; none where there is no /proc."""
        mark = f"PGQ_DSN={self.dsn}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (path / "environ").read_bytes().split(b"\0"):
                    found.append(Process(int(path.name), _stat(int(path.name))[1]))
        return found

    def signal(self, process: Process, signum: signal.Signals) -> None:
        """Send a signal to a process, unless it has ended."""
        if signum == signal.SIGSTOP:
            self.frozen.add(process)
        elif signum in {signal.SIGCONT, signal.SIGKILL}:
            self.frozen.discard(process)
        if _is_alive(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signum)

    def stop(self) -> None:
        """Stop all workers as an operator does; any exit code other than 0 is a crash."""
        for slot in self.slots:
            if slot.process is not None:
                slot.process.terminate()
        for slot in self.slots:
            if slot.process is not None:
                try:
                    code = slot.process.wait(STOPS_WITHIN)
                except subprocess.TimeoutExpired:
                    self.crashes.append(f"{slot.options} does not stop")
                    continue
                slot.process = None
                # Until the worker's first turn, which makes the file, Python may not have taken over the signal.
                is_starting = slot.health is not None and not slot.health.exists()
                if code and not (code == -signal.SIGTERM and is_starting):
                    self.crashes.append(f"{slot.options} stopped with exit code {code}")
        self.crashes += [line for line in self.log.read_text(errors="replace").splitlines() if "Traceback" in line]

    def _start(self, slot: Slot) -> None:
        self._started += 1
        slot.health = self.scratch / f"health-{self._started}"
        command = [
            *(sys.executable, "-m", "pgq", "worker", *self.modules, "--name", "torture", "--batch", "20"),
            *("--lease", f"{self.lease}s", "--poll", "200ms", "--grace", "20s", "--health-file", str(slot.health)),
            *(f"--queue={queue}" for queue in ("default", *limits.QUEUES)),
            *slot.options,
        ]
        with self.log.open("ab") as log, masked():
            slot.process = subprocess.Popen(
                command,
                cwd=HERE.parent,
                env=os.environ | {"PGQ_DSN": self.dsn},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=in_child(signal.SIGKILL),
            )

    def _clear(self, slot: Slot) -> None:
        assert slot.process is not None
        assert slot.health is not None
        code = slot.process.returncode
        # Without a health file the worker never ran its loop: it may have found no server.
        if code not in ORDINARY_ENDS and slot.health.exists():
            self.crashes.append(f"{slot.options} ended with exit code {code}")
        slot.process = None


def children(pid: int) -> list[int]:
    """Return the children of a process, and theirs; none where there is no /proc."""
    found: list[int] = []
    # A child belongs to the thread that has forked it.
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return [*found, *(each for child in found for each in children(child))]


def _stat(pid: int) -> tuple[str, str]:
    """Return the state and the start time of a process; both are empty if it does not exist or there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def _is_alive(process: Process) -> bool:
    """Tell whether a process runs; a zombie, which its parent has not waited for yet, does not."""
    state, started = _stat(process.pid)
    return state not in {"Z", "X"} and started == process.started and (bool(started) or sys.platform != "linux")
