"""What goes in and out of the queue, as values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Protocol

import psycopg

from pgq.errors import PayloadError

decode = json.JSONDecoder().decode


class Executor(Protocol):
    """What a worker lends to a job while its handler runs."""

    lease: timedelta

    def extend(self, job: Job, lease: timedelta | None) -> datetime: ...

    def complete(self, job: Job, conn: psycopg.Connection[Any], result: Any) -> None: ...


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
    context: str | None = field(repr=False)

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
        context: str | None = None,
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
            context=context,
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

    @property
    def waited(self) -> timedelta | None:
        """How long the job was ripe before it was claimed, by the database's clock; None outside a worker."""
        bench: Executor | None = self.__dict__.get("bench")
        return None if bench is None else self.lease_until - bench.lease - self.ripe_at

    def extend(self, lease: timedelta | None = None) -> datetime:
        """
        Let the lease end no sooner than ``lease`` from now, by default as long as at the claim; the answer is its end.

        A worker does it by itself, on a connection of its own, as long as the handler runs and is within its timeout.
        Raises LeaseLost, and RuntimeError outside a worker.
        """
        return self._bench.extend(self, lease)

    def complete(self, conn: psycopg.Connection[Any], result: Any = None) -> None:
        """
        Complete the job within a transaction of the handler's own: then its writes there take effect exactly once.

        The worker leaves alone what a handler has completed before it returned. When the handler raises, or when that
        transaction is never committed, the job is not done. Raises LeaseLost, and RuntimeError outside a worker and
        in a handler with ``transaction=True``.
        """
        self._bench.complete(self, conn, result)
        self.__dict__["completed"] = True

    @property
    def _bench(self) -> Executor:
        bench: Executor | None = self.__dict__.get("bench")
        if bench is None:
            raise RuntimeError("only while its handler runs in a worker")
        return bench


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
class Remaining:
    """What is left to do: how long until the next waiting job is ripe (None: none waits), and whether jobs run."""

    ripe_in: timedelta | None
    running: bool
