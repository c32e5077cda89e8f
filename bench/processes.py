"""The parent process's side of a benchmark: child processes of a contender, and the counters shared with them."""

from __future__ import annotations

import ctypes
import dataclasses
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import Any

from child import Counters, Task
from contender import Contender
from databases import Connection, connect, value
from harness import BenchError, Sample
from roles import Role, main, produce, work
from usage import Usage, usage

STALLED_AFTER = 60.0
START_TIMEOUT = 60.0
SPAWN = multiprocessing.get_context("spawn")


@dataclass
class Process:
    """A child process, as its parent sees it."""

    process: Any
    pipe: Pipe

    def listen(self, timeout: float = 0.0) -> str:
        """Return what the process has sent, or the empty string. Raises BenchError if it has failed or ended."""
        try:
            said = str(self.pipe.recv()) if self.pipe.poll(timeout) else ""
        except EOFError:
            said = f"exit status {self.process.exitcode}"
        if said not in {"", "ready", "done"}:
            raise BenchError(f"a process of {self.process.name} failed: {said}")
        return said


class Processes:
    """Worker processes of a contender, and producers if there are any, from ``__enter__`` to ``__exit__``."""

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
        self.workers: list[Process] = []
        self.producers: list[Process] = []
        self._directory = tempfile.TemporaryDirectory(prefix="pgq-bench-")

    def __enter__(self) -> Processes:
        self.task = dataclasses.replace(self.task, directory=self._directory.name)
        for slot in range(self._workers):
            self.workers.append(self._spawn(work, self.task, slot))
        for _ in range(self._producers):
            self.producers.append(self._spawn(produce, self.task, 0))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self.workers + self.producers:
            child.process.kill()
            child.process.join()
            child.pipe.close()
        self._directory.cleanup()

    @property
    def handled(self) -> int:
        """The number of jobs handled so far."""
        return sum(self.counters.handled)

    def wait_ready(self) -> None:
        """Wait until all processes are connected."""
        for child in self.workers + self.producers:
            if child.listen(START_TIMEOUT) != "ready":
                raise BenchError(f"a process of {self.contender.name} was not ready after {START_TIMEOUT:.0f} s")

    def start(self) -> float:
        """Let all processes begin; return the time of the start."""
        for child in self.workers + self.producers:
            child.pipe.send("start")
        return time.monotonic()

    def wait_for(self, jobs: int) -> None:
        """Wait until that many jobs are handled. Raises BenchError when none is handled for a minute."""
        seen, seen_at, checked_at = -1, 0.0, 0.0
        while (handled := self.handled) < jobs:
            now = time.monotonic()
            if handled != seen:
                seen, seen_at = handled, now
            elif now - seen_at > STALLED_AFTER:
                raise BenchError(f"{self.contender.name} is stuck at {handled} of {jobs} jobs")
            if now - checked_at > 0.5:
                checked_at = now
                self.check()
            time.sleep(0.002)

    def check(self) -> None:
        """Raise BenchError if a process has failed."""
        for child in self.workers + self.producers:
            child.listen()

    def wait_until(self, at: float) -> None:
        """Sleep until a time. Raises BenchError as soon as a process fails."""
        while (rest := at - time.monotonic()) > 0:
            self.check()
            time.sleep(min(rest, 0.5))

    def drain(self, jobs: int) -> Sample:
        """
        Start the workers on jobs numbered from 0; return the jobs per second, and what each has cost.

        The clock runs from when each worker has handled a job, without the jobs handled before, until none is left.
        """
        with connect(self.task.database) as conn:
            self.start()
            self._wait_until_all_handle(jobs)
            started, handled, used = time.monotonic(), self.handled, self.usage(conn)
            self.wait_for(jobs)
            seconds = self._wait_until_none_left(conn, jobs) - started
            costs = self.usage(conn).since(used, jobs - handled)
        self.stop(self.workers)
        self.verify(jobs)
        return Sample((jobs - handled) / seconds, costs)

    def usage(self, conn: Connection) -> Usage:
        """Return what the server and the workers have used so far."""
        return usage(conn, [child.process.pid for child in self.workers])

    def finish(self) -> None:
        """Stop producers and workers. Raises BenchError unless each job produced was handled or is still queued."""
        self.stop(self.producers)
        self.stop(self.workers)
        with connect(self.task.database) as conn:
            left = value(conn, self.contender.left)
        if self.handled + left != self.counters.produced[0]:
            raise BenchError(
                f"{self.contender.name} handled {self.handled} jobs and {left} are left, of {self.counters.produced[0]}"
            )

    def stop(self, processes: list[Process]) -> None:
        """Stop processes. Raises BenchError if one fails."""
        for child in processes:
            child.pipe.send("stop")
        for child in processes:
            if child.listen(STALLED_AFTER) != "done":
                raise BenchError(f"a process of {self.contender.name} does not stop")
            child.process.join()
        # A process that has ended is a failure to `check`, but these were stopped.
        processes.clear()

    def verify(self, jobs: int) -> None:
        """Raise BenchError if a job was lost or handled twice."""
        expected = jobs * (jobs - 1) // 2
        if self.handled != jobs or sum(self.counters.sums) != expected:
            raise BenchError(
                f"{self.contender.name} handled {self.handled} jobs with the sum {sum(self.counters.sums)}, "
                f"not {jobs} with {expected}"
            )

    def _wait_until_all_handle(self, jobs: int) -> None:
        deadline = time.monotonic() + STALLED_AFTER
        while not all(self.counters.handled):
            self.check()
            if self.handled >= jobs:
                raise BenchError(f"{self.contender.name} handled {jobs} jobs before all its workers had begun")
            if time.monotonic() > deadline:
                raise BenchError(f"a worker of {self.contender.name} handles no job")
            time.sleep(0.002)

    def _wait_until_none_left(self, conn: Connection, jobs: int) -> float:
        """Return the time at which the query that found no job left has begun."""
        deadline = time.monotonic() + STALLED_AFTER
        while True:
            asked = time.monotonic()
            if not value(conn, self.contender.left):
                return asked
            if asked > deadline:
                raise BenchError(f"{self.contender.name} handled {jobs} jobs but has not completed them all")
            time.sleep(0.002)

    def _spawn(self, role: Role, task: Task, slot: int) -> Process:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(
            target=main,
            args=(role, self.contender.name, task, slot, self.counters, theirs),
            name=self.contender.name,
            daemon=True,
        )
        process.start()
        theirs.close()
        return Process(process, ours)
