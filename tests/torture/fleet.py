"""The workers of the run: processes of the command "pgq worker", each of which is replaced when it ends."""

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

HERE = Path(__file__).parent
# Of each kind that there is: alone, with threads, with processes, and as behind a pooler.
FLEET = (
    ("--concurrency", "1"),
    ("--concurrency", "4"),
    ("--processes", "2"),
    ("--no-presence", "--no-listen"),
)
# Told to stop, or killed: before it has handlers of its own, a signal ends a process in the usual way.
ORDINARY_ENDS = frozenset({0, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM})
STOPS_WITHIN = 30.0


class Member(NamedTuple):
    """A process: when it was born tells it from a later one with the same number."""

    pid: int
    born: str


@dataclass
class Place:
    """The place of one worker, which its successors take over."""

    options: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    health: Path | None = None


@dataclass
class Fleet:
    """Some workers, from ``__enter__`` to ``__exit__``; then none of their processes is left."""

    dsn: str
    scratch: Path
    log: Path
    lease: float
    modules: tuple[str, ...]
    options: Sequence[tuple[str, ...]] = FLEET
    crashes: list[str] = field(default_factory=list)
    frozen: set[Member] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.places = [Place(options) for options in self.options]
        self._seen: set[Member] = set()
        self._started = 0

    def __enter__(self) -> Fleet:
        self.tend()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ignored():
            # Who is frozen does not notice that its supervisor is gone.
            for member in {*self.members(), *self.frozen}:
                self.signal(member, signal.SIGKILL)
            for place in self.places:
                if place.process is not None:
                    place.process.wait()
            give_up_at = time.monotonic() + STOPS_WITHIN
            while any(_is_there(member) for member in self._seen) and time.monotonic() < give_up_at:
                time.sleep(0.01)

    def tend(self) -> None:
        """Replace who has ended, and remember who had no reason to."""
        for place in self.places:
            if place.process is not None and place.process.poll() is not None:
                self._bury(place)
            if place.process is None:
                self._start(place)

    def members(self) -> list[Member]:
        """All processes, supervisors and their children included."""
        found: list[Member] = []
        for place in self.places:
            if place.process is not None and place.process.poll() is None:
                pid = place.process.pid
                found += [Member(one, _stat(one)[1]) for one in (pid, *children(pid))]
        self._seen.update(found)
        return found

    def signal(self, member: Member, *numbers: signal.Signals) -> None:
        """Send signals to one of the processes, unless it has ended."""
        for number in numbers:
            if number == signal.SIGSTOP:
                self.frozen.add(member)
            elif number in {signal.SIGCONT, signal.SIGKILL}:
                self.frozen.discard(member)
            if _is_there(member):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.pid, number)

    def stop(self) -> None:
        """Stop all of them as an operator would; who does not end with exit code 0 has crashed."""
        for place in self.places:
            if place.process is not None:
                place.process.terminate()
        for place in self.places:
            if place.process is not None:
                try:
                    code = place.process.wait(STOPS_WITHIN)
                except subprocess.TimeoutExpired:
                    self.crashes.append(f"{place.options} does not stop")
                    continue
                place.process = None
                if code:
                    self.crashes.append(f"{place.options} stopped with exit code {code}")
        self.crashes += [line for line in self.log.read_text(errors="replace").splitlines() if "Traceback" in line]

    def _start(self, place: Place) -> None:
        self._started += 1
        place.health = self.scratch / f"health-{self._started}"
        command = [
            *(sys.executable, "-m", "pgq", "worker", *self.modules, "--name", "torture", "--batch", "20"),
            *("--lease", f"{self.lease}s", "--poll", "200ms", "--grace", "20s", "--health-file", str(place.health)),
            *place.options,
        ]
        with self.log.open("ab") as log, masked():
            place.process = subprocess.Popen(
                command,
                cwd=HERE.parent,
                env=os.environ | {"PGQ_DSN": self.dsn},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=in_child(signal.SIGKILL),
            )

    def _bury(self, place: Place) -> None:
        assert place.process is not None
        assert place.health is not None
        code = place.process.returncode
        # Who has never worked may end for want of a server.
        if code not in ORDINARY_ENDS and place.health.exists():
            self.crashes.append(f"{place.options} ended with exit code {code}")
        place.process = None


def children(pid: int) -> list[int]:
    """The children of a process, where the system tells."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _stat(pid: int) -> tuple[str, str]:
    """The state of a process and when it was born; both are empty when there is none, or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def _is_there(member: Member) -> bool:
    """Whether a process has not ended yet, for all that it may not have been waited for."""
    state, born = _stat(member.pid)
    return state not in {"Z", "X"} and born == member.born and (bool(born) or sys.platform != "linux")
