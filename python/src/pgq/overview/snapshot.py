"""The values of one reading. The fields of a row are the columns of the function or view that it is read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class KindNumbers:
    """The jobs of a queue and kind (pgq_overview_kinds): numbers, estimates if ``estimated``."""

    queue: str
    kind: str
    waiting: int
    ripe: int
    blocked: int
    running: int
    dead: int
    cancelled: int
    done: int
    oldest_ripe_age: timedelta | None
    handled: bool | None
    estimated: bool


@dataclass(frozen=True, slots=True)
class Counters:
    """What has happened to the jobs of a queue and kind (pgq_overview_counters)."""

    queue: str
    kind: str
    claimed: int
    done: int
    failed: int
    dead: int
    cancelled: int
    merged: int
    retried: int
    waited_seconds: float
    timed: int
    ran_seconds: float


@dataclass(frozen=True, slots=True)
class Wait:
    """The job of a queue that has been ripe for longest (pgq_overview_waits)."""

    id: int
    queue: str
    kind: str
    priority: int
    attempt: int
    ripe_at: datetime
    age: timedelta


@dataclass(frozen=True, slots=True)
class Cause:
    """Why jobs died (pgq_overview_deaths); ``error`` is None also where the role may not read it."""

    queue: str
    kind: str
    error: str | None
    jobs: int
    newest_job: int
    newest_at: datetime
    oldest_at: datetime


@dataclass(frozen=True, slots=True)
class Place:
    """
    A queue that has settings or is paused, and what keeps its jobs from starting (pgq_overview_queues).

    ``running`` is None for a queue without a limit on it.
    """

    queue: str
    paused: bool
    paused_until: datetime | None
    paused_groups: int
    running: int | None
    max_running: int | None
    at_limit: bool
    groups_at_limit: int
    next_start_at: datetime | None

    @property
    def full(self) -> bool:
        """Whether a limit or a rate keeps jobs of the queue, or of one of its groups, from starting."""
        return self.at_limit or self.groups_at_limit > 0 or self.next_start_at is not None

    @property
    def why(self) -> str:
        """What keeps jobs from starting, in words; empty if nothing does."""
        reasons = []
        if self.paused:
            until = f" until {self.paused_until:%Y-%m-%d %H:%M:%S%z}" if self.paused_until else ""
            reasons.append(f"paused{until}")
        if self.at_limit:
            reasons.append(f"full: {self.running} of {self.max_running} run")
        if self.next_start_at is not None:
            reasons.append(f"rate: next start at {self.next_start_at:%H:%M:%S}")
        if self.groups_at_limit:
            reasons.append(f"{self.groups_at_limit} groups full")
        if self.paused_groups:
            reasons.append(f"{self.paused_groups} groups paused")
        return ", ".join(reasons)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that is registered or holds jobs (pgq_workers)."""

    name: str
    host: str | None
    pid: int | None
    queues: Sequence[str] | None
    registered_at: datetime | None
    present: bool | None
    running: int
    kinds: Sequence[str] | None
    oldest_claimed_at: datetime | None
    handles: Sequence[str] | None
    overdue: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """
    One reading, at a time of the server's clock.

    ``unknown`` has the parts that could not be read, and why. These are empty, or None.
    """

    at: datetime
    seconds: float
    kinds: tuple[KindNumbers, ...] = ()
    counters: tuple[Counters, ...] = ()
    ids: int | None = None
    waits: tuple[Wait, ...] = ()
    deaths: tuple[Cause, ...] = ()
    places: tuple[Place, ...] = ()
    workers: tuple[Worker, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values: times in ISO 8601, lengths of time in seconds."""
        values: dict[str, Any] = _plain(asdict(self))
        for row, place in zip(values["places"], self.places, strict=True):
            row |= {"full": place.full, "why": place.why}
        return values


def _plain(value: Any) -> Any:
    """Return a value of JSON."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value
