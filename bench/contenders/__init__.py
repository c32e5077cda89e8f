"""The queues that are compared: pgq, its last release, the floor, and other queues. Each module defines a CONTENDER."""

from __future__ import annotations

import importlib

from contender import Contender

NAMES = ("pgq", "floor", "graphile", "pgmq", "pgqueuer", "procrastinate")


def by_name(name: str) -> Contender:
    """
    Return a contender, or the variant of one that follows a colon in the name.

    Import its library only now, so that a process loads no other contender's library.
    """
    module, colon, variant = name.partition(":")
    found = importlib.import_module(f"contenders.{module}")
    contender: Contender = found.variant(variant) if colon else found.CONTENDER
    return contender
