"""The contenders: pgq, the floor and the peers, each behind the same small interface."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from duty import Duty

MODULES = {
    "pgq": "queues.pgq_",
    "floor": "queues.floor",
    "pgqueuer": "queues.pgqueuer_",
    "procrastinate": "queues.procrastinate_",
}


class Producer(Protocol):
    """One connection that enqueues; each call is one commit. Jobs are told apart by their number."""

    def one(self, n: int) -> None: ...

    def many(self, first: int, count: int, pad: str = "") -> None: ...

    def close(self) -> None: ...


class Contender(Protocol):
    """``left`` is a query for the number of jobs that are not completed."""

    @property
    def name(self) -> str: ...

    @property
    def left(self) -> str: ...

    def install(self, database: str) -> None: ...

    def producer(self, database: str) -> Producer: ...

    def work(self, duty: Duty) -> None:
        """Be a worker of this kind until the duty ends."""


def by_name(name: str) -> Contender:
    """The contender; its library is loaded only now, so that no process carries those of the others."""
    contender: Contender = importlib.import_module(MODULES[name]).CONTENDER
    return contender
