"""Processes that work for a contender, and the counters that they share with the one that measures."""

from __future__ import annotations

import ctypes
import multiprocessing
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import Any

from databases import connect, value
from duty import Counters, Role, Task, main, produce, work
from harness import BenchError
from queues import Contender

STALLED_AFTER = 60.0
START_TIMEOUT = 60.0
SPAWN = multiprocessing.get_context("spawn")


@dataclass
class Member:
    """One process, as its parent sees it."""

    process: Any
    pipe: Pipe

    def listen(self, timeout: float = 0.0) -> str:
        """What the process has said, or the empty string; raises BenchError if that was an error, or its end."""
        try:
            said = str(self.pipe.recv()) if self.pipe.poll(timeout) else ""
        except EOFError:
            said = f"exit status {self.process.exitcode}"
        if said not in {"", "ready", "done"}:
            raise BenchError(f"a process of {self.process.name} failed: {said}")
        return said


class Crew:
    """Some worker processes of a contender, and perhaps one producer, from ``__enter__`` to ``__exit__``."""

    def __init__(
        self, contender: Contender, task: Task, workers: int = 1, producers: int = 0, latencies: int = 0
    ) -> None:
        self.contender = contender
        self.task = task
        self.counters = Counters(
            SPAWN.RawArray(ctypes.c_int64, workers),
            SPAWN.RawArray(ctypes.c_int64, workers),
            SPAWN.RawArray(ctypes.c_int64, latencies) if latencies else None,
            SPAWN.RawArray(ctypes.c_int64, 1),
        )
        self._workers = workers
        self._producers = producers
        self.members: list[Member] = []
        self.producers: list[Member] = []

    def __enter__(self) -> Crew:
        for slot in range(self._workers):
            self.members.append(self._spawn(work, self.task, slot))
        for _ in range(self._producers):
            self.producers.append(self._spawn(produce, self.task, 0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in self.members + self.producers:
            member.process.kill()
            member.process.join()
            member.pipe.close()

    @property
    def handled(self) -> int:
        return sum(self.counters.handled)

    def ready(self) -> None:
        """Wait until all processes are connected."""
        for member in self.members + self.producers:
            if member.listen(START_TIMEOUT) != "ready":
                raise BenchError(f"a process of {self.contender.name} was not ready after {START_TIMEOUT:.0f} s")

    def go(self) -> float:
        """Let them begin; the answer is the time of it."""
        for member in self.members + self.producers:
            member.pipe.send("go")
        return time.monotonic()

    def wait_for(self, jobs: int) -> None:
        """Wait until so many jobs are handled; raises BenchError when nothing moves any more."""
        seen, seen_at, checked_at = -1, 0.0, 0.0
        while (handled := self.handled) < jobs:
            now = time.monotonic()
            if handled != seen:
                seen, seen_at = handled, now
            elif now - seen_at > STALLED_AFTER:
                raise BenchError(f"{self.contender.name} is stuck at {handled} of {jobs} jobs")
            if now - checked_at > 0.5:
                checked_at = now
                self.look()
            time.sleep(0.002)

    def look(self) -> None:
        """Raise BenchError if a process has failed."""
        for member in self.members + self.producers:
            member.listen()

    def wait_until(self, at: float) -> None:
        """Sleep, but not past the failure of a process."""
        while (rest := at - time.monotonic()) > 0:
            self.look()
            time.sleep(min(rest, 0.5))

    def drain(self, jobs: int) -> float:
        """Let them do the jobs that are enqueued, numbered from 0; the answer is the seconds until none is left."""
        with connect(self.task.database) as conn:
            started = self.go()
            self.wait_for(jobs)
            self._wait_until_none_left(conn, jobs)
            seconds = time.monotonic() - started
        self.stop(self.members)
        self.verify(jobs)
        return seconds

    def finish(self) -> None:
        """Stop the producer and the workers where they are; what was produced was handled, or is still there."""
        self.stop(self.producers)
        self.stop(self.members)
        with connect(self.task.database) as conn:
            left = value(conn, self.contender.left)
        if self.handled + left != self.counters.produced[0]:
            raise BenchError(
                f"{self.contender.name} handled {self.handled} jobs and {left} are left, of {self.counters.produced[0]}"
            )

    def stop(self, members: list[Member]) -> None:
        """Let processes finish, and see that they do so without an error."""
        for member in members:
            member.pipe.send("stop")
        for member in members:
            if member.listen(STALLED_AFTER) != "done":
                raise BenchError(f"a process of {self.contender.name} does not stop")
            member.process.join()
        # Their end is no failure any more.
        members.clear()

    def verify(self, jobs: int) -> None:
        """Nothing lost, nothing doubled."""
        expected = jobs * (jobs - 1) // 2
        if self.handled != jobs or sum(self.counters.sums) != expected:
            raise BenchError(
                f"{self.contender.name} handled {self.handled} jobs with the sum {sum(self.counters.sums)}, "
                f"not {jobs} with {expected}"
            )

    def _wait_until_none_left(self, conn: Any, jobs: int) -> None:
        deadline = time.monotonic() + STALLED_AFTER
        while value(conn, self.contender.left):
            if time.monotonic() > deadline:
                raise BenchError(f"{self.contender.name} handled {jobs} jobs but has not completed them all")
            time.sleep(0.002)

    def _spawn(self, role: Role, task: Task, slot: int) -> Member:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(
            target=main,
            args=(role, self.contender.name, task, slot, self.counters, theirs),
            name=self.contender.name,
            daemon=True,
        )
        process.start()
        theirs.close()
        return Member(process, ours)
