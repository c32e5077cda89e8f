"""What a handler raises to say itself what shall become of its job."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pgq.convert import check_aware


class Control(Exception):
    """The base of these. None of them is an error, and in a transactional handler all of them undo its writes."""


class Snooze(Control):
    """Not now: put the job off until a time, or for a while. The attempt does not count."""

    def __init__(self, *, until: datetime | None = None, delay: timedelta | None = None) -> None:
        if (until is None) == (delay is None):
            raise TypeError("Snooze takes either until or delay")
        if until is not None:
            check_aware("until", until)
        _check_type("delay", delay, timedelta)
        super().__init__(f"until {until}" if until else f"for {delay}")
        self.until = until
        self.delay = delay


class Cancel(Control):
    """Never: the job is not worth doing. It is kept as cancelled, with the reason, and not tried again."""

    def __init__(self, reason: str = "") -> None:
        _check_type("reason", reason, str)
        super().__init__(reason)
        self.reason = reason


class Retry(Control):
    """This attempt has failed; make the next one after ``in_``, or without it after the backoff of the job."""

    def __init__(self, in_: timedelta | None = None) -> None:
        _check_type("in_", in_, timedelta)
        super().__init__(f"in {in_}" if in_ is not None else "")
        self.in_ = in_


def _check_type(name: str, value: Any, expected: type) -> None:
    """Here, where it is the failure of a job; when it is put on record it would be that of the worker."""
    if value is not None and not isinstance(value, expected):
        raise TypeError(f"{name} is a {type(value).__name__}, and not a {expected.__name__}")
