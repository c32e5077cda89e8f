"""Workers inside the process of the tests."""

from __future__ import annotations

from typing import Any, Protocol

from pgq import Worker
from pgq.worker.loop import Loop
from support.threads import Thread, eventually


class MakeWorker(Protocol):
    """Make a worker with the test's handlers and these options; it is closed at the end of the test."""

    def __call__(self, **options: Any) -> Worker: ...


def drain(loop: Loop) -> None:
    """Take turns until no job is ripe; the last turn settles."""
    while loop.turn():
        pass


def start(worker: Worker, running: list[Worker]) -> None:
    """Run a worker until all of its loops sleep."""
    running.append(worker)
    Thread(worker.run)
    eventually(lambda: len(worker.presence.idle._sleeping) == len(worker.loops))
