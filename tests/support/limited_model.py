"""A model of queues with groups, limits, order and pauses: which jobs a claim may take, and how many it has to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from support.job import Job, Refused
from support.model import Model
from support.rates import PERS, Rate, Starts

FOREVER = datetime.max.replace(tzinfo=UTC)
# A queue, or a group of it.
Place = tuple[str, str | None]


class LimitedModel(Model):
    """All jobs by id, what is paused until when, and what has started under a rate."""

    def __init__(self, now: datetime) -> None:
        super().__init__(now)
        self.pauses: dict[Place, datetime] = {}
        self.starts: dict[Place, Starts] = {}

    # Operators.

    def configure(self, queue: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is set."""
        new = super().configure(queue, settings)
        is_ordered = "ordered" in new
        if ("on_dead" in new and not is_ordered) or (is_ordered and new.get("max_per_group", 1) > 1):
            raise Refused("22023")
        if "per" not in new and ("rate" in new or "rate_per_group" in new):
            raise Refused("22023")
        if settings.keys() & {"rate", "per", "burst", "rate_per_group"}:
            changed = {place: starts for place, starts in self.starts.items() if place[0] == queue}
            for place, starts in changed.items():
                self.starts[place] = starts.under(self._rate(*place), self.now)
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
        of_queues = Counter((self.jobs[job_id].queue, None) for job_id in ids)
        of_groups = Counter((self.jobs[job_id].queue, self.jobs[job_id].group_key) for job_id in ids)
        for place, jobs in [*of_queues.items(), *((place, n) for place, n in of_groups.items() if place[1])]:
            self._count(place, jobs)
        return [self.start(self.jobs[job_id], lease) for job_id in ids]

    def _rate(self, queue: str, key: str | None) -> Rate | None:
        """Return the rate of a queue, or of a group of it."""
        settings = self.settings.get(queue, {})
        jobs = settings.get("rate" if key is None else "rate_per_group")
        return None if jobs is None else Rate(jobs, PERS[settings["per"]], settings.get("burst", 1))

    def next_starts(self) -> set[datetime]:
        """Return when the next job may start under each rate."""
        starts = [(starts, self._rate(*place)) for place, starts in self.starts.items()]
        return {known.spent - rate.span(rate.burst - 1) for known, rate in starts if rate is not None}

    def _count(self, place: Place, jobs: int) -> None:
        """Count jobs that start."""
        if (rate := self._rate(*place)) is not None:
            self.starts[place] = self.starts.get(place, Starts(self.now)).more(jobs, rate, self.now)

    def _tokens(self, place: Place, jobs: int) -> int:
        """Return how many of some jobs may start now under the rate of a queue, or of a group."""
        rate = self._rate(*place)
        return jobs if rate is None else min(jobs, self.starts.get(place, Starts(self.now)).room(rate, self.now))

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
        jobs = self._tokens((queue, None), jobs)
        return jobs if most is None else max(min(jobs, most - self._running(queue)), 0)

    def _group_room(self, queue: str, key: str | None, jobs: int) -> int:
        """Return how many of some jobs of a group may begin."""
        settings = self.settings.get(queue, {})
        most = 1 if settings.get("ordered") else settings.get("max_per_group")
        if key is None:
            return jobs
        jobs = self._tokens((queue, key), jobs)
        return jobs if most is None else max(min(jobs, most - self._running(queue, key)), 0)

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
