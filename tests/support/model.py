"""A model of what pgq promises, in a few lines of Python: the jobs, and what each function does to them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

Result = tuple[Any, ...]


class Refused(Exception):
    """The function raises an error with this SQLSTATE, and changes nothing."""


@dataclass(frozen=True)
class Job:
    """A job in any state; a value that only other states have is None."""

    id: int
    kind: str
    args: Any
    queue: str
    priority: int
    ripe_at: datetime
    max_retries: int
    backoff: timedelta
    dedup: bool
    dedup_key: str | None
    enqueued_at: datetime
    state: str = "waiting"
    attempt: int = 0
    errors: list[str | None] = field(default_factory=list)
    failed_at: list[datetime] = field(default_factory=list)
    token: int | None = None
    lease_until: datetime | None = None
    requested: bool = False
    result: Any = None
    ended_at: datetime | None = None
    # As in pgq_running: negative once the job was found lost together with others.
    losses: int | None = None
    group_key: str | None = None

    @property
    def signature(self) -> tuple[Any, ...] | None:
        """Two jobs with the same signature are twins; with None a job has no twin."""
        if not self.dedup:
            return None
        what = ("args", json.dumps(self.args, sort_keys=True)) if self.dedup_key is None else ("key", self.dedup_key)
        return (self.queue, self.kind, *what)

    def failed(self, error: str | None, at: datetime) -> Job:
        """Return the job with one more error."""
        return replace(self, errors=[error, *self.errors][:10], failed_at=[at, *self.failed_at][:10])

    @property
    def place(self) -> tuple[int, datetime, int]:
        """The order of jobs within a queue."""
        return (self.priority, self.ripe_at, self.id)


@dataclass(frozen=True)
class Order:
    """The arguments of an enqueue."""

    kind: str
    args: Any
    queue: str
    ripe_in: timedelta | None
    priority: int
    max_retries: int
    backoff: timedelta
    dedup: bool
    dedup_key: str | None
    on_duplicate: str
    group_key: str | None = None


class Model:
    """All jobs by id, and the time."""

    CAP = timedelta(hours=1)
    # How often a loss does not count.
    UNCOUNTED = 5

    def __init__(self, now: datetime, jobs: Iterable[Job] = ()) -> None:
        self.now = now
        self.jobs = {job.id: job for job in jobs}

    def copy(self) -> Model:
        """Return a copy that can be changed."""
        return Model(self.now, self.jobs.values())

    def _set(self, job: Job, **changes: Any) -> Job:
        self.jobs[job.id] = replace(job, **changes)
        return self.jobs[job.id]

    def twin(self, job: Job) -> Job | None:
        """Return the waiting job that this one would be a duplicate of."""
        waiting = [other for other in self.jobs.values() if other.state == "waiting" and other.id != job.id]
        return next((other for other in waiting if job.signature and other.signature == job.signature), None)

    # Producers.

    def enqueue(self, order: Order, new_id: int) -> tuple[int, bool]:
        """Return the id of the job that now waits, and whether it is ``new_id``."""
        ripe_at = self.now + (order.ripe_in or timedelta(0))
        job = Job(
            new_id, order.kind, order.args, order.queue, order.priority, ripe_at, order.max_retries, order.backoff,
            order.dedup, order.dedup_key, self.now, group_key=order.group_key,
        )  # fmt: skip
        twin = self.twin(job)
        if twin is None:
            self.jobs[new_id] = job
            return new_id, True
        if order.on_duplicate == "error":
            raise Refused("PGQ04")
        if order.on_duplicate == "replace":
            self._set(twin, args=job.args, ripe_at=ripe_at, priority=job.priority)
        elif order.on_duplicate == "soonest":
            self._set(twin, ripe_at=min(twin.ripe_at, ripe_at))
        return twin.id, False

    # Workers.

    def claim(self, queues: list[str], max_jobs: int, lease: timedelta, locked: Collection[int] = ()) -> list[Job]:
        """Return the claimed jobs, without their tokens; running jobs that are locked keep their leases."""
        self._expire(locked)
        queues = list(dict.fromkeys(queues))
        ripe = [
            job
            for job in self.jobs.values()
            if job.state == "waiting" and job.ripe_at <= self.now and job.queue in queues
        ]
        ripe.sort(key=lambda job: (job.priority, queues.index(job.queue), job.place))
        ripe = ripe[:max_jobs]
        suspect = next((n for n, job in enumerate(ripe) if job.losses is not None), max_jobs)
        taken = sorted(ripe[: max(suspect, 1)], key=lambda job: job.place)
        return [self._set(job, state="running", attempt=job.attempt + 1, lease_until=self.now + lease) for job in taken]

    def _expire(self, locked: Collection[int]) -> None:
        lost = [(job.lease_until, job) for job in self.jobs.values() if job.lease_until and job.id not in locked]
        self._mark_lost({job.token for until, job in lost if until < self.now and (job.losses or 0) >= 0}, locked)
        for until, found in sorted(lost, key=lambda pair: pair[0]):
            if until >= self.now:
                break
            job = self.jobs[found.id]
            if job.losses is not None and -self.UNCOUNTED <= job.losses < 0:
                self._wait(job, ripe_at=self.now, attempt=job.attempt - 1)
            else:
                losses = job.losses if job.losses is None or job.losses >= 0 else self.UNCOUNTED
                delay = timedelta(0) if job.attempt == 1 else self.backoff(job, job.attempt - 1)
                self._retry_or_end(replace(job, losses=losses), "the lease ran out", self.now + delay)

    def _mark_lost(self, tokens: set[int | None], locked: Collection[int]) -> None:
        for token in tokens:
            together = [job for job in self.jobs.values() if job.token == token]
            for job in together:
                if len(together) > 1 and job.id not in locked and (job.losses or 0) >= 0:
                    self._set(job, losses=-1 - (job.losses or 0))

    def held(self, job_id: int | None, token: int | None) -> Job:
        """Return the running job with this token."""
        job = self.jobs.get(job_id or 0)
        if job is None or job.token is None or job.token != token:
            raise Refused("PGQ02")
        return job

    def complete(self, job: Job, result: Any) -> None:
        """Delete the job, or keep it with its result."""
        if result is None:
            del self.jobs[job.id]
        else:
            self._end(job, "done", result=result)

    def fail(self, job: Job, error: str | None, retry_in: timedelta | None, retry: bool) -> Result:
        """Return the outcome, and the time of the next attempt."""
        job = replace(job, losses=None)
        delay = self.backoff(job, job.attempt) if retry_in is None else retry_in
        outcome = self._retry_or_end(job, error, self.now + delay if retry else None)
        return outcome, self.now + delay if outcome == "retry" else None

    def cancel_claimed(self, job: Job, reason: str | None) -> None:
        """Keep the job as cancelled, with the reason."""
        self._end(job.failed(reason, self.now), "cancelled")

    def extend(self, job: Job, lease: timedelta, packed_with: Iterable[int]) -> datetime:
        """Return the new end of the lease, which is also that of the jobs that are packed with this one."""
        until = max(job.lease_until or self.now, self.now + lease)
        for job_id in packed_with:
            self._set(self.jobs[job_id], lease_until=until)
        return until

    def put_back(self, job: Job, ripe_at: datetime, word: str) -> str:
        """Snooze or release the job: the attempt does not count."""
        state = self._wait(job, ripe_at=ripe_at, attempt=job.attempt - 1)
        return word if state == "waiting" else state

    def cancel_requested(self, job_id: int | None, token: int | None) -> list[int]:
        """Return the id of the running job with this token if its worker is asked to give it up."""
        job = self.jobs.get(job_id or 0)
        return [job.id] if job is not None and job.requested and job.token == token else []

    # Operators.

    def cancel(self, job_id: int) -> str:
        """Keep a job that waits, or whose lease is over, as cancelled; ask the worker of one that runs."""
        job = self._known(job_id)
        if job.state not in {"waiting", "running"}:
            raise Refused("PGQ03")
        if job.lease_until is not None and job.lease_until >= self.now:
            self._set(job, requested=True)
            return "requested"
        if job.lease_until is not None:
            if (job.losses or 0) >= 0:
                self._mark_lost({job.token}, ())
            job = self.jobs[job_id].failed("the lease ran out", self.now)
        self._end(job, "cancelled")
        return "cancelled"

    def retry(self, job_id: int) -> str:
        """Make the job ripe, unless its time lies ahead, with all its retries; a twin keeps its time."""
        job = self._known(job_id)
        if job.state not in {"dead", "cancelled"}:
            raise Refused("PGQ03")
        state = self._wait(job, delays_twin=False, ripe_at=max(job.ripe_at, self.now), attempt=0)
        return "retry" if state == "waiting" else state

    def purge(self, older_than: timedelta, outcome: str | None, queue: str | None) -> int:
        """Return how many ended jobs are deleted."""
        old = [
            job.id
            for job in self.jobs.values()
            if job.ended_at is not None
            and job.ended_at <= self.now - older_than
            and outcome in {None, job.state}
            and queue in {None, job.queue}
        ]
        for job_id in old:
            del self.jobs[job_id]
        return len(old)

    # Shared by several functions.

    def backoff(self, job: Job, attempt: int) -> timedelta:
        """Return the delay after this many attempts."""
        return min(self.CAP, job.backoff * (1 << min(attempt - 1, 20)))

    def _known(self, job_id: int) -> Job:
        if job_id not in self.jobs:
            raise Refused("PGQ01")
        return self.jobs[job_id]

    def _retry_or_end(self, job: Job, error: str | None, ripe_at: datetime | None) -> str:
        job = job.failed(error, self.now)
        if ripe_at is None or job.attempt > job.max_retries:
            state = "cancelled" if job.requested else "dead"
            self._end(job, state)
            return state
        state = self._wait(job, ripe_at=ripe_at)
        return "retry" if state == "waiting" else state

    def _wait(self, job: Job, *, delays_twin: bool = True, **changes: Any) -> str:
        if job.requested:
            self._end(replace(job, attempt=changes.get("attempt", job.attempt)), "cancelled")
            return "cancelled"
        losses = None if job.losses is None else abs(job.losses)
        job = replace(job, state="waiting", token=None, lease_until=None, ended_at=None, losses=losses, **changes)
        twin = self.twin(job)
        if twin is None:
            self.jobs[job.id] = job
            return "waiting"
        del self.jobs[job.id]
        both = zip([*job.failed_at, *twin.failed_at], [*job.errors, *twin.errors], strict=True)
        newest = sorted(both, key=lambda pair: pair[0], reverse=True)[:10]
        self._set(
            twin,
            attempt=max(twin.attempt, job.attempt),
            ripe_at=max(twin.ripe_at, job.ripe_at) if delays_twin and job.ripe_at > self.now else twin.ripe_at,
            errors=[error for _, error in newest],
            failed_at=[at for at, _ in newest],
            losses=max(filter(None, (twin.losses, job.losses)), default=None),
        )
        return "merged"

    def _end(self, job: Job, state: str, result: Any = None) -> None:
        losses = None if job.losses is None else abs(job.losses)
        self.jobs[job.id] = replace(
            job,
            state=state,
            result=result,
            token=None,
            lease_until=None,
            requested=False,
            ended_at=self.now,
            losses=losses,
        )
