"""
The control exceptions: a handler raises one to decide what becomes of its job.

Control
├── Snooze
├── Cancel
├── Retry
└── WaitForSignal
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from pgq.convert import check_aware


class Control(Exception):
    """The base class. A control exception is no error; in a transactional handler it undoes the handler's writes."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A process pool pickles what its workers raise. By default __init__(*args) would rebuild it, and fail here.
        return _rebuild, (type(self), self.args), self.__dict__


class Snooze(Control):
    """
    Put the job back ``until`` a time, or for a ``delay``. The attempt does not count.

    With ``whole_group``, no other job of its group is claimed before that time either.
    """

    def __init__(
        self, *, until: datetime | None = None, delay: timedelta | None = None, whole_group: bool = False
    ) -> None:
        if (until is None) == (delay is None):
            raise TypeError("Snooze takes either until or delay")
        if until is not None:
            check_aware("until", until)
        _check_type("delay", delay, timedelta)
        super().__init__(f"until {until}" if until else f"for {delay}")
        self.until = until
        self.delay = delay
        self.whole_group = bool(whole_group)


class Cancel(Control):
    """End the job as cancelled: it is kept with the ``reason``, and not tried again."""

    def __init__(self, reason: str = "") -> None:
        _check_type("reason", reason, str)
        super().__init__(reason)
        self.reason = reason


class Retry(Control):
    """Fail the attempt, and make the next one after ``in_``, or after the job's backoff if that is None."""

    def __init__(self, in_: timedelta | None = None) -> None:
        _check_type("in_", in_, timedelta)
        super().__init__(f"in {in_}" if in_ is not None else "")
        self.in_ = in_


class WaitForSignal(Control):
    """Put the job back until it gets a signal, or a timeout is over. The attempt does not count."""

    def __init__(self, name: str, timeout: timedelta | None = None) -> None:
        _check_type("timeout", timeout, timedelta)
        super().__init__(f"for {name}")
        self.name = name
        self.timeout = timeout


def _rebuild(cls: type[Control], args: tuple[Any, ...]) -> Control:
    return cls.__new__(cls, *args)


def _check_type(name: str, value: Any, expected: type) -> None:
    """
    Raise TypeError for a value of another type.

    A mistake that is found here fails only the job; found while its outcome is recorded it would stop the worker.
    """
    if value is not None and not isinstance(value, expected):
        raise TypeError(f"{name} must be a {expected.__name__}, not {type(value).__name__}")
