"""The values that go in and out of the queue."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import psycopg

from pgq.errors import PayloadError

decode = json.JSONDecoder().decode
NOT_DECODED: Final = object()


class Runtime(Protocol):
    """What a worker lends to a job while its handler runs."""

    lease: timedelta

    def extend(self, job: Job, lease: timedelta | None) -> datetime: ...

    def complete(self, job: Job, conn: psycopg.Connection[Any], result: Any) -> None: ...

    def is_cancelled(self, job: Job) -> bool: ...


@dataclass
class Job:
    """
    A claimed job. ``id`` stays the same through all attempts, ``token`` names this one claim.

    ``attempt`` counts from 1. The job belongs to the worker until ``lease_until``, by the database's clock. ``payload``
    and ``context`` are JSON text. A ``suspect`` was lost together with other jobs, and was claimed alone.
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
    context: str | None = field(default=None, repr=False)
    suspect: bool = False
    # Set by the worker, while the handler runs.
    _runtime: Runtime | None = field(default=None, init=False, repr=False, compare=False)
    # Whether the handler has completed the job in a transaction of its own.
    _completed: bool = field(default=False, init=False, repr=False, compare=False)
    # Set by the worker's presence; a handler has a copy of the job, and asks by ``cancelled``.
    _cancelled: bool = field(default=False, init=False, repr=False, compare=False)
    _args: Any = field(default=NOT_DECODED, init=False, repr=False, compare=False)

    def __hash__(self) -> int:
        return hash((self.id, self.token))

    @property
    def args(self) -> Any:
        """
        The arguments, decoded from ``payload`` at the first use.

        Raises PayloadError for what PostgreSQL accepts as JSON but Python does not, such as a number of 5,000 digits.
        """
        if self._args is NOT_DECODED:
            try:
                self._args = decode(self.payload)
            except (ValueError, RecursionError) as error:
                raise PayloadError(f"cannot decode the arguments of job {self.id}: {type(error).__name__}") from error
        return self._args

    @property
    def cancelled(self) -> bool:
        """
        Whether an operator has asked to cancel the job while it runs; the worker learns of that within two seconds.

        A handler that stops early raises pgq.Cancelled or anything else; one that returns all the same has done the
        job. Outside a worker it is always false: ask ``WorkerQueue.cancel_requested``.
        """
        return self._runtime is not None and self._runtime.is_cancelled(self)

    @property
    def waited(self) -> timedelta | None:
        """How long the job was ripe before it was claimed, by the database's clock; None outside a worker."""
        return None if self._runtime is None else self.lease_until - self._runtime.lease - self.ripe_at

    def extend(self, lease: timedelta | None = None) -> datetime:
        """
        Let the lease end no sooner than ``lease`` from now (None: as long as at the claim), and return its end.

        A worker extends the lease of each running handler that is within its timeout, so handlers need this only for
        a longer lease. Raises LeaseLost, and RuntimeError outside a worker.
        """
        return self._require_runtime().extend(self, lease)

    def complete(self, conn: psycopg.Connection[Any], result: Any = None) -> None:
        """
        Complete the job within a transaction of the handler's own: its writes there take effect exactly once.

        The job is done when that transaction commits. Once the handler has returned, the worker records nothing more: a
        job whose transaction was never committed gets another attempt when its lease has ended. Raises LeaseLost, and
        RuntimeError outside a worker and in a handler with ``transaction=True``.
        """
        self._require_runtime().complete(self, conn, result)
        self._completed = True

    def _require_runtime(self) -> Runtime:
        if self._runtime is None:
            raise RuntimeError("a job can be extended or completed only while its handler runs in a worker")
        return self._runtime


@dataclass(frozen=True)
class Enqueued:
    """The result of an enqueue. For a duplicate ``created`` is false, and ``id`` is that of the waiting job."""

    id: int
    created: bool


@dataclass(frozen=True)
class Failure:
    """
    What became of a job that failed or was declined: ``outcome`` is retry or declined (until ``ripe_at``), dead, merged
    into a waiting twin, or cancelled, if an operator has asked for that.
    """

    outcome: str
    ripe_at: datetime | None


@dataclass(frozen=True)
class Remaining:
    """What is left to do: how long until the next waiting job is ripe (None: none waits), and whether jobs run."""

    ripe_in: timedelta | None
    running: bool
