"""What becomes of a claimed job: first as its handler left it, then as the database has it on record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pgq.job import Job


@dataclass(frozen=True)
class Completed:
    """A handler returned; ``result`` is JSON text to be kept, or None."""

    job: Job
    result: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Failed:
    """
    A handler raised; ``error`` is what to remember of it, ``cause`` the name of the exception.

    The next attempt comes after ``retry_in``, or without it after the backoff; never, unless ``retry`` is set.
    """

    job: Job
    error: str
    cause: str
    seconds: float | None = None
    retry_in: timedelta | None = None
    retry: bool = True


@dataclass(frozen=True)
class Snoozed:
    """A handler put its job off, until a time or for a while."""

    job: Job
    until: datetime | None
    delay: timedelta | None
    seconds: float | None = None


@dataclass(frozen=True)
class Cancelled:
    """A handler found its job not worth doing; ``cause`` is the name of the exception that said so."""

    job: Job
    reason: str
    cause: str
    seconds: float | None = None


@dataclass(frozen=True)
class Released:
    """A claimed job goes back as if it had not been claimed."""

    job: Job
    seconds: float | None = None


Outcome = Completed | Failed | Snoozed | Cancelled | Released


def is_plain(outcome: Outcome) -> bool:
    """Whether it is a completion without a result: those are settled all at once."""
    return isinstance(outcome, Completed) and outcome.result is None


@dataclass(frozen=True)
class Settlement:
    """
    What became of an outcome: done, retry, dead, merged, snoozed, discarded, released; lost (with the lease), or left
    (to the lease, because a producer's open transaction stood in the way).
    """

    job: Job
    state: str
    ripe_at: datetime | None = None
    cause: str | None = None
    seconds: float | None = None
