"""Workers inside the process of the tests."""

from __future__ import annotations

from pgq.worker.loop import Loop


def drain(loop: Loop) -> None:
    """Take turns until nothing is ripe; the last one settles."""
    while loop.turn():
        pass
