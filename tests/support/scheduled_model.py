"""A model of a schedule: which jobs a claim enqueues before it takes any."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from support.job import Job, Refused
from support.model import Model

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@dataclass(frozen=True)
class Schedule:
    """A schedule whose slots are the multiples of a step."""

    step: timedelta
    queue: str
    catch_up: str
    overlap: str
    next_at: datetime
    paused: bool = False
    last_at: datetime | None = None
    last_job: int | None = None
    missed: int = 0

    def after(self, at: datetime) -> datetime:
        """Return the first slot after a time."""
        return at - (at - EPOCH) % self.step + self.step


class ScheduledModel(Model):
    """All jobs by id, the time, and the only schedule."""

    # Of more slots that are late at a time, no more count.
    MOST = 100

    def __init__(self, now: datetime) -> None:
        super().__init__(now)
        self.schedule: Schedule | None = None
        # The ids of the jobs that the schedule enqueues next.
        self.new_ids: Iterator[int] = iter(())

    # Operators.

    def set_schedule(self, step: timedelta, queue: str, catch_up: str, overlap: str) -> datetime:
        """Make or replace the schedule. Return the next slot, which stays where the step does."""
        new = Schedule(step, queue, catch_up, overlap, self.now)
        new = replace(new, next_at=new.after(self.now))
        if (old := self.schedule) is not None:
            new = replace(
                new,
                next_at=old.next_at if old.step == step else new.next_at,
                paused=old.paused,
                last_at=old.last_at,
                last_job=old.last_job,
                missed=old.missed,
            )
        self.schedule = new
        return new.next_at

    def unschedule(self) -> bool:
        """Return whether there was a schedule. Its jobs stay."""
        was, self.schedule = self.schedule, None
        return was is not None

    def pause(self) -> bool:
        """Return whether the schedule was not paused."""
        old = self._known_schedule()
        self.schedule = replace(old, paused=True)
        return not old.paused

    def resume(self) -> datetime:
        """Let the schedule go on from now, and return the next slot."""
        old = self._known_schedule()
        self.schedule = replace(old, paused=False, next_at=old.after(self.now)) if old.paused else old
        return self.schedule.next_at

    def run(self) -> int:
        """Return the id of a job that the schedule enqueues now, whatever else is the case."""
        return self._enqueue(self._known_schedule(), self.now)

    # Workers.

    def claim(self, queues: list[str], max_jobs: int, lease: timedelta, locked: Collection[int] = ()) -> list[Job]:
        """Return the claimed jobs, without their tokens. What is due is enqueued before."""
        if self.schedule is not None and not self.schedule.paused and self.schedule.next_at <= self.now:
            self._fire(self.schedule)
        return super().claim(queues, max_jobs, lease, locked)

    def _fire(self, schedule: Schedule) -> None:
        """Enqueue jobs for the slots up to now, as catch_up and overlap say."""
        late = (self.now - schedule.next_at) // schedule.step + 1
        counted = min(late, self.MOST)
        slots = [schedule.next_at + schedule.step * n for n in range(counted if schedule.catch_up == "all" else late)]
        passed = slots[-1]
        if schedule.catch_up != "all":
            slots = [] if schedule.catch_up == "none" and passed < self.now - MINUTE else [passed]
        last = self.jobs.get(schedule.last_job or 0)
        if schedule.overlap == "skip" and last is not None and last.state in {"waiting", "running"}:
            slots = []
        self.schedule = replace(schedule, next_at=passed + schedule.step, missed=schedule.missed + counted - len(slots))
        for slot in slots:
            self._enqueue(self.schedule, slot)

    def _enqueue(self, schedule: Schedule, slot: datetime) -> int:
        new_id = next(self.new_ids)
        self.jobs[new_id] = Job(
            new_id, "k", {"n": 1}, schedule.queue, 5, self.now, 3, MINUTE, False, None, self.now
        )  # fmt: skip
        self.schedule = replace(schedule, last_at=slot, last_job=new_id)
        return new_id

    def _known_schedule(self) -> Schedule:
        if self.schedule is None:
            raise Refused("42704")
        return self.schedule
