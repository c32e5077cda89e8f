"""The values that go in and out of the queue."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from json.scanner import make_scanner
from typing import Any, Final, NamedTuple, Protocol, cast

import psycopg

from pgq.errors import PayloadError
from pgq.workflow import StepRuntime, Steps

# The values of one column, which None stands for if all are missing.
Column = Any
NOT_DECODED: Final = object()
# The arguments of Job, in their order.
FIELDS: Final = (
    "id", "token", "queue", "kind", "payload", "attempt", "max_retries", "priority", "ripe_at", "enqueued_at",
    "lease_until", "context", "suspect", "group_key", "saved",
)  # fmt: skip
_DECODER: Final = json.JSONDecoder()
# typeshed has the class of its Python version, which takes itself.
_scan: Final[Callable[[str, int], tuple[Any, int]]] = make_scanner(_DECODER)  # type: ignore[arg-type]


def decode(text: str) -> Any:
    """Decode JSON. PostgreSQL writes none around a value, so the search for white space there is mostly saved."""
    try:
        value, end = _scan(text, 0)
        if end == len(text):
            return value
    except StopIteration:
        pass
    return _DECODER.decode(text)


class Runtime(Protocol):
    """What a worker lends to a job while its handler runs."""

    lease: timedelta
    worker: str
    database: str | None

    def extend(self, job: Job, lease: timedelta | None) -> datetime: ...

    def complete(self, job: Job, conn: psycopg.Connection[Any], result: Any) -> None: ...

    def batch(self, job: Job) -> BatchProgress: ...

    def is_cancelled(self, job: ClaimedJob) -> bool: ...

    def steps(self, job: Job) -> StepRuntime: ...


class Claim:
    """
    The jobs of one claim, in columns. Each Job is a row of them.

    A column that is seldom read comes as a function, which is called at the first use.
    """

    __slots__ = (
        "_columns", "attempts", "cancelled", "ids", "kinds", "lease_until", "packed", "payloads", "runtime", "suspect",
        "token",
    )  # fmt: skip

    def __init__(
        self,
        token: int,
        lease_until: datetime,
        suspect: bool,
        ids: Sequence[int],
        kinds: Sequence[str],
        payloads: Sequence[str],
        attempts: Sequence[int],
        columns: Mapping[str, Column | Callable[[], Column]],
    ) -> None:
        self.token = token
        self.lease_until = lease_until
        self.suspect = suspect
        self.ids = ids
        self.kinds = kinds
        self.payloads = payloads
        self.attempts = attempts
        self._columns = dict(columns)
        # Whether the server may keep the jobs in one row, which each transaction locks that completes one of them.
        self.packed = False
        # Set by the worker.
        self.runtime: Runtime | None = None
        # The ids of the jobs that an operator has asked to cancel. The worker's presence adds them.
        self.cancelled: set[int] = set()

    def jobs(self) -> list[Job]:
        """Return new objects for all jobs."""
        # Written out as in job(): a call of it for each job makes this about a fifth slower.
        new, jobs = Job.__new__, []
        rows = zip(self.ids, self.kinds, self.payloads, self.attempts, strict=True)
        for index, (job_id, kind, payload, attempt) in enumerate(rows):
            job = new(Job)
            job.id, job.kind, job.payload, job.attempt = job_id, kind, payload, attempt
            job._claim, job._index, job._args, job._completed = self, index, NOT_DECODED, False
            jobs.append(job)
        return jobs

    def job(self, index: int) -> Job:
        """Return a new object for a job."""
        job: Job = Job.__new__(Job)
        job.id, job.kind = self.ids[index], self.kinds[index]
        job.payload, job.attempt = self.payloads[index], self.attempts[index]
        job._claim, job._index, job._args, job._completed = self, index, NOT_DECODED, False
        return job

    def waited(self, ripe_at: datetime) -> timedelta | None:
        """Return how long a job was ripe before this claim; None outside a worker."""
        return None if self.runtime is None else self.lease_until - self.runtime.lease - ripe_at

    def column(self, name: str) -> Column:
        """Return a column that is seldom read."""
        column = self._columns[name]
        if callable(column):
            column = self._columns[name] = column()
        return column


class ClaimedJob:
    """
    What Job and AsyncJob have in common: the values of a claimed job.

    Jobs with the same id and token are equal. A copy, and one that was pickled, is outside of its worker.
    """

    __slots__ = ("__weakref__", "_args", "_claim", "_completed", "_index", "attempt", "id", "kind", "payload")

    def __init__(
        self,
        id: int,  # noqa: A002 - the name of the column
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
        suspect: bool = False,
        group_key: str | None = None,
        saved: str | None = None,
    ) -> None:
        self.id, self.kind, self.payload, self.attempt = id, kind, payload, attempt
        self._index, self._args = 0, cast("Any", NOT_DECODED)
        # Whether the handler has completed the job in a transaction of its own.
        self._completed = False
        columns = {
            "queue": [queue],
            "max_retries": [max_retries],
            "priority": [priority],
            "ripe_at": [ripe_at],
            "enqueued_at": [enqueued_at],
            "context": [context],
            "group_key": [group_key],
            "saved": [saved],
        }
        self._claim = Claim(token, lease_until, suspect, [id], [kind], [payload], [attempt], columns)

    @property
    def token(self) -> int:
        """The token of the claim; jobs that are claimed together share it."""
        return self._claim.token

    @property
    def queue(self) -> str:
        """The queue."""
        queue: str = self._claim.column("queue")[self._index]
        return queue

    @property
    def max_retries(self) -> int:
        """How many attempts may follow the first one."""
        max_retries: int = self._claim.column("max_retries")[self._index]
        return max_retries

    @property
    def priority(self) -> int:
        """The priority, of which 0 is the most urgent."""
        priority: int = self._claim.column("priority")[self._index]
        return priority

    @property
    def ripe_at(self) -> datetime:
        """From when on the job could be claimed."""
        ripe_at: datetime = self._claim.column("ripe_at")[self._index]
        return ripe_at

    @property
    def enqueued_at(self) -> datetime:
        """When the job was enqueued."""
        enqueued_at: datetime = self._claim.column("enqueued_at")[self._index]
        return enqueued_at

    @property
    def lease_until(self) -> datetime:
        """The end of the lease of the claim; extensions do not change it here."""
        return self._claim.lease_until

    @property
    def context(self) -> str | None:
        """The context of the enqueue."""
        contexts: Sequence[str | None] | None = self._claim.column("context")
        return None if contexts is None else contexts[self._index]

    @property
    def group_key(self) -> str | None:
        """The key of the job's group in its queue."""
        keys: Sequence[str | None] | None = self._claim.column("group_key")
        return None if keys is None else keys[self._index]

    @property
    def saved(self) -> str | None:
        """What earlier attempts have saved, as JSON text."""
        texts: Sequence[str | None] | None = self._claim.column("saved")
        return None if texts is None else texts[self._index]

    @property
    def suspect(self) -> bool:
        """Whether the job was lost together with others."""
        return self._claim.suspect

    @property
    def worker(self) -> str | None:
        """The name of the worker that runs the job; None outside a worker."""
        return None if self._claim.runtime is None else self._claim.runtime.worker

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClaimedJob) and (self.id, self.token) == (other.id, other.token)

    def __hash__(self) -> int:
        return hash((self.id, self.token))

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in FIELDS if name not in {"payload", "context", "saved"})
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple[type[ClaimedJob], tuple[Any, ...]]:
        return type(self), tuple(getattr(self, name) for name in FIELDS)

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
        runtime = self._claim.runtime
        return runtime is not None and runtime.is_cancelled(self)

    @property
    def waited(self) -> timedelta | None:
        """How long the job was ripe before it was claimed, by the database's clock; None outside a worker."""
        return self._claim.waited(self.ripe_at)

    @property
    def database(self) -> str | None:
        """The name of the job's database, as in the log, where the worker serves several; None otherwise."""
        runtime = self._claim.runtime
        return None if runtime is None else runtime.database

    @property
    def _cancelled(self) -> bool:
        """Whether an operator has asked to cancel the job, as the worker's presence has learned."""
        return self.id in self._claim.cancelled

    def _require_runtime(self) -> Runtime:
        if self._claim.runtime is None:
            raise RuntimeError("a job can make this call only while its handler runs in a worker")
        return self._claim.runtime


class Job(ClaimedJob, Steps):
    """
    A claimed job. ``id`` stays the same through all attempts, ``token`` names this one claim.

    ``attempt`` counts from 1. The job belongs to the worker until ``lease_until``, by the database's clock.
    ``payload``, ``context`` and ``saved`` are JSON text. A ``suspect`` was lost together with other jobs, and was
    claimed alone.

    Jobs with the same id and token are equal. A copy, and one that was pickled, is outside of its worker.
    """

    __slots__ = ("_steps",)
    # Set when the handler first asks for it.
    _steps: object

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

    def batch(self) -> BatchProgress:
        """
        Return the numbers of the batch whose last job this is: how many jobs it had, and which have failed.

        Raises JobNotFound for a job that is not the last one of a batch, and RuntimeError outside a worker.
        """
        return self._require_runtime().batch(self)


class Enqueued(NamedTuple):
    """The result of an enqueue. For a duplicate ``created`` is false, and ``id`` is that of the waiting job."""

    id: int
    created: bool


class EnqueuedBatch(NamedTuple):
    """The result of ``enqueue_batch``: the id of the job that comes last, and those of the others, in their order."""

    id: int
    ids: list[int]


@dataclass(frozen=True)
class BatchProgress:
    """How many jobs a batch has, how many have ended, and how many and which of those are dead or cancelled."""

    jobs: int
    ended: int
    failed: int
    failed_ids: list[int]


@dataclass(frozen=True)
class Result:
    """
    What has become of a job. ``state`` is waiting, blocked, running, done, dead, cancelled or gone, which is that of a
    job that has left nothing. ``payload`` is the result as JSON text, ``error`` the newest error or note; None where
    there is none.
    """

    id: int
    state: str
    payload: str | None
    error: str | None
    ended_at: datetime | None

    @property
    def ended(self) -> bool:
        """Whether the job neither waits, for a worker or for other jobs, nor runs."""
        return self.state not in {"waiting", "blocked", "running"}

    @property
    def value(self) -> Any:
        """
        The result, decoded from ``payload``; None if there is none.

        Raises PayloadError for what PostgreSQL accepts as JSON but Python does not.
        """
        if self.payload is None:
            return None
        try:
            return decode(self.payload)
        except (ValueError, RecursionError) as error:
            raise PayloadError(f"cannot decode the result of job {self.id}: {type(error).__name__}") from error


@dataclass(frozen=True)
class Failure:
    """
    What became of a job that failed or was declined: ``outcome`` is retry or declined (until ``ripe_at``), dead, merged
    into a waiting twin, or cancelled, if an operator has asked for that.
    """

    outcome: str
    ripe_at: datetime | None


@dataclass(frozen=True)
class SignalWait:
    """
    What became of a job that was to wait for a signal. ``outcome`` is received or timeout, and the job runs on; or
    waiting, merged or cancelled, and it was put back or has ended. ``payload`` is that of the signal as JSON text;
    ``until`` is when the timeout is over.
    """

    outcome: str
    payload: str | None
    until: datetime | None

    @property
    def value(self) -> Any:
        """The payload, decoded; None if there is none."""
        return None if self.payload is None else decode(self.payload)


@dataclass(frozen=True)
class Remaining:
    """What is left to do: how long until the next waiting job is ripe (None: none waits), and whether jobs run."""

    ripe_in: timedelta | None
    running: bool
