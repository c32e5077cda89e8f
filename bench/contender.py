"""What each queue provides so that the benchmarks can run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from child import Child


class Producer(Protocol):
    """A connection that enqueues. Each call is one commit; a job is identified by its number."""

    def one(self, n: int) -> None:
        """Enqueue job ``n``."""

    def many(self, first: int, count: int, pad: str = "") -> None:
        """Enqueue ``count`` jobs, numbered from ``first``."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True)
class Contender:
    """
    A queue that takes part.

    ``left`` is a query for the number of jobs that are not completed. ``install`` and ``producer`` take the name of a
    database; ``work`` runs a worker until the child process is told to stop.
    """

    name: str
    left: str
    install: Callable[[str], None]
    producer: Callable[[str], Producer]
    work: Callable[[Child], None]
