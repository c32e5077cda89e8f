"""A model of queues with groups, limits, order and pauses: which jobs a claim may take, and how many it has to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from support.model import Job, Model, Refused

FOREVER = datetime.max.replace(tzinfo=UTC)
Settings = dict[str, dict[str, Any]]
Pauses = dict[tuple[str, str | None], datetime]


class LimitedModel(Model):
    """All jobs by id, the settings of queues, and what is paused until when."""

    def __init__(
        self,
        now: datetime,
        jobs: Iterable[Job] = (),
        settings: Settings | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        super().__init__(now, jobs)
        self.settings = dict(settings or {})
        self.pauses = dict(pauses or {})

    def copy(self) -> LimitedModel:
        """Return a copy that can be changed."""
        return LimitedModel(self.now, self.jobs.values(), self.settings, self.pauses)

    # Operators.

    def configure(self, queue: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is set."""
        both = {**self.settings.get(queue, {}), **settings}
        new = {key: value for key, value in both.items() if value is not None}
        is_ordered = "ordered" in new
        if ("on_dead" in new and not is_ordered) or (is_ordered and new.get("max_per_group", 1) > 1):
            raise Refused("22023")
        self.settings[queue] = new
        return new

    def pause(self, queue: str, key: str | None, until: datetime | None) -> None:
        """Of two pauses the one that ends later counts."""
        place = (queue, key)
        self.pauses[place] = max(self.pauses.get(place, self.now), until or FOREVER)

    def resume(self, queue: str, key: str | None) -> bool:
        """Return whether it was paused."""
        return self.pauses.pop((queue, key), self.now) > self.now

    def is_paused(self, queue: str, key: str | None) -> bool:
        """Return whether no job of a queue, or of a group of it, is claimed."""
        return self.pauses.get((queue, key), self.now) > self.now

    # Workers.

    def claim_these(
        self, queues: list[str], max_jobs: int, lease: timedelta, locked: Collection[int], ids: list[int]
    ) -> list[Job]:
        """Check that a claim takes jobs that it may take, and as many as it can. Return them, without their tokens."""
        self._expire(locked)
        lanes = {queue: self._lanes(queue) for queue in queues if not self.is_paused(queue, None)}
        first = {(queue, key): lane for queue, of in lanes.items() for key, lane in of.items()}
        most = min(max_jobs, sum(self._room(queue, of) for queue, of in lanes.items()))
        if any(job.losses is not None for lane in first.values() for job in lane):
            # A suspect is claimed alone, but something is.
            assert min(1, most) <= len(ids) <= most
        else:
            assert len(ids) == most, (ids, most)
        for (queue, key), lane in first.items():
            taken = {job_id for job_id in ids if (self.jobs[job_id].queue, self.jobs[job_id].group_key) == (queue, key)}
            assert taken == {job.id for job in lane[: len(taken)]}, (queue, key)
        assert {(self.jobs[job_id].queue, self.jobs[job_id].group_key) for job_id in ids} <= set(first)
        for queue, of in lanes.items():
            taken = {job_id for job_id in ids if self.jobs[job_id].queue == queue}
            assert len(taken) <= self._room(queue, of)
        return [
            self._set(job, state="running", attempt=job.attempt + 1, lease_until=self.now + lease)
            for job in map(self.jobs.__getitem__, ids)
        ]

    def _lanes(self, queue: str) -> dict[str | None, list[Job]]:
        """Return the jobs of each group that may begin, in their order, no more than its limit allows."""
        waiting = [job for job in self.jobs.values() if job.state == "waiting" and job.queue == queue]
        lanes = {}
        for key in {job.group_key for job in waiting}:
            lane = [job for job in waiting if job.group_key == key]
            if key is not None and self.is_paused(queue, key):
                continue
            if key is not None and self.settings.get(queue, {}).get("ordered"):
                lane = [job for job in [min(lane, key=lambda job: job.id)] if not self._is_stopped(job)]
            ripe = sorted((job for job in lane if job.ripe_at <= self.now), key=lambda job: job.place)
            if ripe:
                lanes[key] = ripe[: self._group_room(queue, key, len(ripe))]
        return lanes

    def _room(self, queue: str, lanes: Mapping[str | None, list[Job]]) -> int:
        """Return how many jobs of a queue may begin."""
        jobs = sum(len(lane) for lane in lanes.values())
        most = self.settings.get(queue, {}).get("max_running")
        return jobs if most is None else max(min(jobs, most - self._running(queue)), 0)

    def _group_room(self, queue: str, key: str | None, jobs: int) -> int:
        """Return how many of some jobs of a group may begin."""
        settings = self.settings.get(queue, {})
        most = 1 if settings.get("ordered") else settings.get("max_per_group")
        return jobs if key is None or most is None else max(most - self._running(queue, key), 0)

    def _running(self, queue: str, *keys: str) -> int:
        """Return how many jobs of a queue run, or of these groups of it."""
        running = [job for job in self.jobs.values() if job.state == "running" and job.queue == queue]
        return sum(not keys or job.group_key in keys for job in running)

    def _is_stopped(self, first: Job) -> bool:
        """Return whether a dead job keeps the group of this one waiting."""
        return self.settings[first.queue].get("on_dead") == "stop" and any(
            job.state == "dead" and (job.queue, job.group_key) == (first.queue, first.group_key) and job.id < first.id
            for job in self.jobs.values()
        )

    def _wait(self, job: Job, *, delays_twin: bool = True, **changes: Any) -> str:
        twin = self.twin(job)
        state = super()._wait(job, delays_twin=delays_twin, **changes)
        is_ordered = job.group_key is not None and self.settings.get(job.queue, {}).get("ordered")
        if state != "merged" or twin is None or not is_ordered:
            return state
        if twin.id < job.id or twin.group_key != job.group_key:
            return state
        # The twin takes the place of the job.
        self.jobs[job.id] = replace(self.jobs.pop(twin.id), id=job.id)
        return "waiting"
