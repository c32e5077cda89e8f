"""The child process's side of a benchmark: what it is to do, and how it reports to its parent."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

from harness import BenchError


@dataclass(frozen=True)
class Task:
    """
    What a child process is to do.

    A ``batch`` of None means the contender's default. Handlers of a ``transaction`` insert a row; ``grouped`` is how
    many jobs of pgq may share one. A producer pauses while more than ``outstanding`` jobs are not handled.
    ``directory`` is for counts and logs.
    """

    database: str
    batch: int | None = None
    transaction: bool = False
    grouped: int | None = None
    concurrency: int | None = None
    pad: int = 0
    host: str | None = None
    outstanding: int = 0
    directory: str = ""


@dataclass(frozen=True)
class Counters:
    """Shared memory. Each worker process has its own slot, so that none waits for another."""

    handled: Any
    sums: Any
    started: Any
    produced: Any


class Child:
    """A child process, as seen from inside it: its task, its counters, and the pipe to its parent."""

    def __init__(self, task: Task, slot: int, counters: Counters, pipe: Pipe) -> None:
        self.task = task
        self.stopped = False
        self.counters = counters
        self.slot = slot
        self._pipe = pipe
        self._stop: Callable[[], object] = lambda: None

    def ready(self, stop: Callable[[], object] = lambda: None) -> None:
        """Report readiness and wait for the start. ``stop`` is called from another thread when the parent says so."""
        self._stop = stop
        self._pipe.send("ready")
        self._pipe.recv()
        threading.Thread(target=self._watch, daemon=True).start()

    def handle(self, args: Mapping[str, Any]) -> None:
        """Check the payload of a job and count the job; every handler calls this."""
        n = args["n"]
        if self.task.pad and len(args["pad"]) != self.task.pad:
            raise BenchError(f"the payload of job {n} is truncated")
        if self.counters.started:
            self.counters.started[n] = time.monotonic_ns()
        self.counters.sums[self.slot] += n
        self.counters.handled[self.slot] += 1

    def _watch(self) -> None:
        try:
            self._pipe.recv()
        except EOFError:
            # The parent has ended.
            os._exit(1)
        self.stopped = True
        self._stop()
