"""The queues that are compared: pgq, its last release, the floor, and other queues. Each module defines a CONTENDER."""

from __future__ import annotations

import importlib

from contender import Contender

NAMES = ("pgq", "floor", "graphile", "pgmq", "pgqueuer", "procrastinate")


def by_name(name: str) -> Contender:
    """Return a contender. Import its library only now, so that a process loads no other contender's library."""
    contender: Contender = importlib.import_module(f"contenders.{name}").CONTENDER
    return contender
