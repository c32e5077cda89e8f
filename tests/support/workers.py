"""Workers inside the process of the tests."""

from __future__ import annotations

from pgq.worker.loop import Loop


def drain(loop: Loop) -> None:
    """Take turns until no job is ripe; the last turn settles."""
    while loop.turn():
        pass
