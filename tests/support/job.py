"""A job, and the arguments with which it is enqueued, as the models of pgq know them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any


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
    # Whether the claim has noted that the job is to be kept when it is done; no table shows it as it is.
    kept: bool = field(default=False, compare=False)

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
    dedup_for: timedelta | None = None
    group_key: str | None = None
