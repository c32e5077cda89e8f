"""What a process of a contender does, seen from inside it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any

from harness import BenchError
from queues import Contender, by_name

CHUNK = 500


@dataclass(frozen=True)
class Task:
    """What a process shall do; a batch of None is the default of the contender, ``outstanding`` is for producers."""

    database: str
    batch: int | None = None
    transaction: bool = False
    pad: int = 0
    host: str | None = None
    outstanding: int = 0


@dataclass(frozen=True)
class Counters:
    """Shared memory. Each worker has a slot of its own, so that none waits for another."""

    handled: Any
    sums: Any
    started: Any
    produced: Any


class Duty:
    """A worker process's link to the one that measures."""

    def __init__(self, task: Task, slot: int, counters: Counters, pipe: Pipe) -> None:
        self.task = task
        self.stopped = False
        self.counters = counters
        self._slot = slot
        self._pipe = pipe
        self._stop: Callable[[], object] = lambda: None

    def ready(self, stop: Callable[[], object] = lambda: None) -> None:
        """Wait for the signal to begin; ``stop`` is called, from another thread, when it is time to end."""
        self._stop = stop
        self._pipe.send("ready")
        self._pipe.recv()
        threading.Thread(target=self._watch, daemon=True).start()

    def handle(self, args: Mapping[str, Any]) -> None:
        """What every handler does: check the payload and count it."""
        n = args["n"]
        if self.task.pad and len(args["pad"]) != self.task.pad:
            raise BenchError(f"the payload of job {n} has lost something")
        if self.counters.started:
            self.counters.started[n] = time.monotonic_ns()
        self.counters.sums[self._slot] += n
        self.counters.handled[self._slot] += 1

    def _watch(self) -> None:
        try:
            self._pipe.recv()
        except EOFError:
            # The one that measures is gone, however it went.
            os._exit(1)
        self.stopped = True
        self._stop()


Role = Callable[[Contender, Duty], None]


def work(contender: Contender, duty: Duty) -> None:
    """Be a worker."""
    contender.work(duty)


def produce(contender: Contender, duty: Duty) -> None:
    """Enqueue as long as not too much is outstanding."""
    counters = duty.counters
    with contextlib.closing(contender.producer(duty.task.database)) as producer:
        duty.ready()
        n = 0
        while not duty.stopped:
            if n - sum(counters.handled) > duty.task.outstanding:
                time.sleep(0.002)
                continue
            producer.many(n, CHUNK)
            n += CHUNK
            counters.produced[0] = n


def main(role: Role, name: str, task: Task, slot: int, counters: Counters, pipe: Pipe) -> None:
    # Ctrl-C reaches the whole group; the one that measures sees to the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        role(by_name(name), Duty(task, slot, counters, pipe))
        pipe.send("done")
    except BaseException:
        pipe.send(traceback.format_exc())
        sys.exit(1)
