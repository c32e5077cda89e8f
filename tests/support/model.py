"""A model of what pgq promises, in a few lines of Python: the jobs, and what each function does to them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from copy import copy
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Self

from support.job import Job, Order, Refused

Result = tuple[Any, ...]

# How long jobs are kept that have ended, where neither their queue nor all queues have a setting.
KEPT = {"keep_done": "7 days", "keep_dead": "30 days", "keep_cancelled": "30 days"}
SPANS = {f"{days} days": timedelta(days=days) for days in (2, 7, 30, 100, 9999)}


class Model:
    """All jobs by id, the windows by signature, the settings of queues, and the time."""

    CAP = timedelta(hours=1)
    # How often a loss does not count.
    UNCOUNTED = 5

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.jobs: dict[int, Job] = {}
        # The id of the first job, and when the window is over.
        self.windows: dict[Result, tuple[int, datetime]] = {}
        self.settings: dict[str, dict[str, Any]] = {}

    def copy(self) -> Self:
        """Return a copy that can be changed."""
        new = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict):
                setattr(new, name, dict(value))
        return new

    def _set(self, job: Job, **changes: Any) -> Job:
        self.jobs[job.id] = replace(job, **changes)
        return self.jobs[job.id]

    def twin(self, job: Job) -> Job | None:
        """Return the waiting job that this one would be a duplicate of."""
        waiting = [other for other in self.jobs.values() if other.state == "waiting" and other.id != job.id]
        return next((other for other in waiting if job.signature and other.signature == job.signature), None)

    # Producers.

    def enqueue(self, order: Order, new_id: int) -> tuple[int, bool]:
        """Return the id of the job that now waits, or was the first in the window, and whether it is ``new_id``."""
        job = Job(
            new_id, order.kind, order.args, order.queue, order.priority, self.now + (order.ripe_in or timedelta(0)),
            order.max_retries, order.backoff, order.dedup, order.dedup_key, self.now, group_key=order.group_key,
        )  # fmt: skip
        twin, first = self.twin(job), self._first_in_window(order, job)
        if twin is None and first is None:
            self.jobs[new_id] = job
        elif order.on_duplicate == "error":
            raise Refused("PGQ04")
        elif twin is not None and order.on_duplicate == "replace":
            self._set(twin, args=job.args, ripe_at=job.ripe_at, priority=job.priority)
        elif twin is not None and order.on_duplicate == "soonest":
            self._set(twin, ripe_at=min(twin.ripe_at, job.ripe_at))
        found = twin.id if twin is not None else first or new_id
        if first is None and order.dedup_for is not None and job.signature is not None:
            self.windows[job.signature] = (found, self.now + order.dedup_for)
        return found, twin is None and first is None

    def _first_in_window(self, order: Order, job: Job) -> int | None:
        """Return the id of the first job of the window that is open for an order."""
        if order.dedup_for is None or job.signature is None:
            return None
        first, until = self.windows.get(job.signature, (None, self.now))
        return first if until > self.now else None

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
        return [self.start(job, lease) for job in taken]

    def start(self, job: Job, lease: timedelta) -> Job:
        """Return the job that a claim has taken, without its token."""
        kept = "keep_done" in self.settings.get(job.queue, {})
        return self._set(job, state="running", attempt=job.attempt + 1, lease_until=self.now + lease, kept=kept)

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
        """Delete the job, or keep it: with its result, or because its queue keeps all that is done."""
        is_kept = (job.kept or job.errors) and "keep_done" in self.settings.get(job.queue, {})
        if result is None and not is_kept:
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

    def result(self, job_id: int, last_id: int) -> Result:
        """Return the state of a job, its result, its newest error, and when it ended."""
        if not 1 <= job_id <= last_id:
            raise Refused("PGQ01")
        job = self.jobs.get(job_id)
        return ("gone", None, None, None) if job is None else (
            job.state, job.result, job.errors[0] if job.errors else None, job.ended_at
        )  # fmt: skip

    # Operators.

    def configure(self, queue: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is set."""
        both = {**self.settings.get(queue, {}), **settings}
        self.settings[queue] = {key: value for key, value in both.items() if value is not None}
        return self.settings[queue]

    def update(
        self, job_id: int, args: Any, ripe_at: datetime | None, priority: int | None, group_key: str | None
    ) -> datetime:
        """Change a waiting job, and return its ripe_at; a job that gets another place is ripe now at the earliest."""
        job = self._known(job_id)
        if job.state != "waiting":
            raise Refused("PGQ03")
        if any(value is not None for value in (ripe_at, priority, group_key)):
            job = replace(job, ripe_at=max(ripe_at or job.ripe_at, self.now))
        if args is not None:
            job = replace(job, args=args)
        if priority is not None:
            job = replace(job, priority=priority)
        if group_key is not None:
            job = replace(job, group_key=group_key or None)
        if self.twin(job):
            raise Refused("PGQ04")
        self.jobs[job_id] = job
        return job.ripe_at

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

    def is_old(self, job: Job) -> bool:
        """Return whether the job has ended, and was kept for as long as its queue says."""
        if job.ended_at is None:
            return False
        kept = (KEPT | self.settings.get("", {}) | self.settings.get(job.queue, {}))[f"keep_{job.state}"]
        return job.ended_at <= self.now - SPANS[kept]

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
