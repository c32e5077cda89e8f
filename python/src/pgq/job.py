"""What goes in and out of the queue, as values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from pgq.errors import PayloadError

decode = json.JSONDecoder().decode


@dataclass(frozen=True, init=False)
class Job:
    """
    A claimed job. ``id`` stays the same through all attempts, ``token`` names this one claim.

    ``attempt`` counts from 1. The job belongs to the worker until ``lease_until``, by the database's clock.
    """

    id: int
    token: int
    queue: str
    kind: str
    payload: str = field(repr=False)
    attempt: int
    max_retries: int
    priority: int
    ripe_at: datetime
    enqueued_at: datetime
    lease_until: datetime

    def __init__(
        self,
        id: int,  # noqa: A002 - the name of the field
        token: int,
        queue: str,
        kind: str,
        payload: str,
        attempt: int,
        max_retries: int,
        priority: int,
        ripe_at: datetime,
        enqueued_at: datetime,
        lease_until: datetime,
    ) -> None:
        # All at once: that a dataclass is frozen makes eleven slow assignments of what takes as long as a handler.
        self.__dict__.update(
            id=id,
            token=token,
            queue=queue,
            kind=kind,
            payload=payload,
            attempt=attempt,
            max_retries=max_retries,
            priority=priority,
            ripe_at=ripe_at,
            enqueued_at=enqueued_at,
            lease_until=lease_until,
        )

    @cached_property
    def args(self) -> Any:
        """
        The arguments, decoded from ``payload`` at the first use.

        Raises PayloadError for what PostgreSQL accepts as JSON but Python does not, such as a number of 5,000 digits.
        """
        try:
            return decode(self.payload)
        except (ValueError, RecursionError) as error:
            raise PayloadError(f"cannot decode the arguments of job {self.id}: {type(error).__name__}") from error


@dataclass(frozen=True)
class Enqueued:
    """The answer to an enqueue. For a duplicate ``created`` is false, and ``id`` that of the job that was there."""

    id: int
    created: bool


@dataclass(frozen=True)
class Failure:
    """The answer to a failed attempt: ``outcome`` is retry (at ``ripe_at``), dead, or merged into a waiting twin."""

    outcome: str
    ripe_at: datetime | None


@dataclass(frozen=True)
class Completed:
    """A handler returned; ``result`` is JSON text to be kept, or None."""

    job: Job
    result: str | None = None


@dataclass(frozen=True)
class Failed:
    """A handler raised; ``error`` is what to remember of it, ``cause`` the name of the exception."""

    job: Job
    error: str
    cause: str


@dataclass(frozen=True)
class Released:
    """A claimed job was not begun."""

    job: Job


Outcome = Completed | Failed | Released


def is_plain(outcome: Outcome) -> bool:
    """Whether it is a completion without a result: those are settled all at once."""
    return isinstance(outcome, Completed) and outcome.result is None


@dataclass(frozen=True)
class Settled:
    """
    What became of an outcome: done, retry, dead, merged, released; lost (with the lease), or left (to the lease,
    because a producer's open transaction stood in the way).
    """

    job: Job
    state: str
    ripe_at: datetime | None = None
    cause: str | None = None
