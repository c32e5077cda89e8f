"""What becomes of a claimed job: an outcome, as its handler left it; a settlement, as the database recorded it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pgq.job import Claim, Job


@dataclass(frozen=True)
class Completed:
    """The handler returned; ``result`` is JSON text to be kept, or None."""

    job: Job
    result: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class CompletedWithNote:
    """
    The handler returned what cannot be stored: the job is done without a result, and the ``note`` says why.

    ``cause`` is the name of the exception. Another attempt would repeat the effects of this one.
    """

    job: Job
    note: str
    cause: str
    seconds: float | None = None


@dataclass(frozen=True)
class Failed:
    """
    The handler raised; ``error`` is the text to be kept, ``cause`` the name of the exception.

    The next attempt comes after ``retry_in``, or (None) after the backoff of the job; never, unless ``retry`` is set.
    """

    job: Job
    error: str
    cause: str
    seconds: float | None = None
    retry_in: timedelta | None = None
    retry: bool = True


@dataclass(frozen=True)
class Snoozed:
    """The handler put its job off, until a time or for a while, and perhaps all others of its group."""

    job: Job
    until: datetime | None
    delay: timedelta | None
    seconds: float | None = None
    whole_group: bool = False


@dataclass(frozen=True)
class WaitsForSignal:
    """The handler waits for a signal, for as long as ``timeout`` (None: as long as it takes)."""

    job: Job
    name: str
    timeout: timedelta | None
    seconds: float | None = None


@dataclass(frozen=True)
class Cancelled:
    """The handler gave its job up; ``cause`` is the name of the exception that said so."""

    job: Job
    reason: str
    cause: str
    seconds: float | None = None


@dataclass(frozen=True)
class Released:
    """The job goes back as if it had not been claimed."""

    job: Job
    seconds: float | None = None


@dataclass(frozen=True)
class Declined:
    """This worker has no handler for the kind: the job goes back, for longer each time; the attempt does not count."""

    job: Job
    seconds: float | None = None


# A completion without a result, of which there are most: the id of the job, its claim, its place there, and how many
# seconds its handler took. What the handler has had is not among it.
Done = tuple[int, Claim, int, float]
Outcome = Completed | CompletedWithNote | Failed | Snoozed | WaitsForSignal | Cancelled | Released | Declined


def is_plain(outcome: Outcome) -> bool:
    """Return whether the outcome is a completion without a result: one statement records all of those."""
    return isinstance(outcome, Completed) and outcome.result is None


@dataclass(frozen=True)
class Settlement:
    """
    How the database recorded an outcome: done, retry, dead, merged, snoozed, declined, cancelled or released; lost (the
    lease was lost), or left (to its lease, because an open transaction stood in the way).

    ``cause`` is the name of the exception behind it; of a job that is done, that which kept its result from being
    stored.
    """

    job: Job
    state: str
    ripe_at: datetime | None = None
    cause: str | None = None
    seconds: float | None = None


Result = Outcome | Settlement
