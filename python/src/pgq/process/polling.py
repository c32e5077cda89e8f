"""Wait for files, whatever their numbers: select.select refuses those from 1024 on."""

from __future__ import annotations

import select
from math import ceil
from typing import Final

# The longest time that poll takes, in milliseconds.
LONGEST: Final = 2**31 - 1


def readable(seconds: float | None, *files: int) -> list[int]:
    """
    Sleep for a time (None: without an end), or until one of these files can be read; return those that can.

    A time of more than 24 days ends after these.
    """
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    # Rounded up: a caller that is woken too early would only sleep again. Less than 0 would be without an end.
    timeout = None if seconds is None else max(ceil(min(seconds * 1000, LONGEST)), 0)
    return [file for file, _ in poll.poll(timeout)]
