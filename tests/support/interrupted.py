"""Handlers that take too long, each in another way."""

from __future__ import annotations

import threading
import time

from pgq import Job
from support.database import Connection

LONG = 60.0


def sleep(job: Job, *conn: Connection) -> None:
    """Wait in C for the clock."""
    time.sleep(LONG)


def wait(job: Job, *conn: Connection) -> None:
    """Wait in C for another thread."""
    threading.Event().wait(LONG)


def compute(job: Job, *conn: Connection) -> None:
    """Compute in Python."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        pass


def swallow(job: Job, *conn: Connection) -> None:
    """Catch the interruption once and go on."""
    try:
        compute(job)
    except BaseException:
        compute(job)
