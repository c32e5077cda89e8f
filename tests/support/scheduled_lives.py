"""The rules of a schedule, beside all others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from support.job import Job
from support.machine import Rows, Where, leases, queues, wheres
from support.model import Model
from support.scheduled_model import ScheduledModel
from support.working import Working

SEE_SCHEDULE = "SELECT CASE WHEN NOT paused THEN next_at END, paused, last_at, last_job, missed FROM pgq_schedules"

late = st.sampled_from([timedelta(minutes=29), timedelta(minutes=31), timedelta(hours=5), timedelta(days=3)])
every = st.sampled_from([30, 240])
policies = st.sampled_from(["one skip", "one allow", "all allow", "none skip", "none allow"])
scheduled = precondition(lambda self: self.model.schedule is not None)


def of_schedule(model: Model) -> ScheduledModel:
    """Return the model as what it is."""
    assert isinstance(model, ScheduledModel)
    return model


class ScheduledLives(Working):
    """Operators make a schedule, pause it, let it go on, run it and remove it; claims fire what is due."""

    model_of = ScheduledModel

    def operate(self, where: Where, query: str, expect: Callable[[ScheduledModel], Any]) -> None:
        """Make a call for the schedule."""

        def expected(model: Model, rows: Rows) -> list[Any]:
            of_schedule(model).new_ids = self.new_ids(rows)
            return [(expect(of_schedule(model)),)]

        self.call(where, query, [], expected)
        # A session looks for schedules once a second, so it may see later what another one has done to them.
        for conn in self.connections:
            conn.execute("SELECT set_config('pgq.schedules_' || 'pgq_schedule_entry'::regclass::oid, '', false)")

    def new_ids(self, rows: Rows) -> Iterator[int]:
        """Yield the ids of new jobs, among those that a call has returned and all others; then ids of no job."""
        ids = {row[0] for row in self.connections[0].execute("SELECT id FROM pgq_jobs")}
        ids.update(row[0] for row in rows or [] if isinstance(row[0], int))
        yield from sorted(ids - self.model.jobs.keys())
        yield from count(10**9)

    @initialize(minutes=every, queue=queues, policy=policies)
    def begin(self, minutes: int, queue: str, policy: str) -> None:
        """Start with a schedule."""
        self.schedule((0, True), minutes, queue, policy)

    @rule(where=wheres, minutes=every, queue=queues, policy=policies)
    def schedule(self, where: Where, minutes: int, queue: str, policy: str) -> None:
        """A schedule is made, or replaced."""
        catch_up, overlap = policy.split()
        self.operate(
            where,
            f"SELECT pgq_schedule('s', 'every {minutes} minutes', 'k', '{{\"n\": 1}}', '{queue}', "
            f"catch_up => '{catch_up}', overlap => '{overlap}', max_retries => 3, backoff => '1 minute')",
            lambda model: model.set_schedule(timedelta(minutes=minutes), queue, catch_up, overlap),
        )

    @rule(where=wheres, span=late, max_jobs=st.sampled_from([1, 5, 0]), lease=leases)
    def fire(self, where: Where, span: timedelta, max_jobs: int, lease: timedelta) -> None:
        """The next claim comes after a slot, or after many."""
        self.travel(span)
        self.take(where, ["default", "a"], max_jobs, self.lease(lease))

    @scheduled
    @rule(where=wheres)
    def pause_schedule(self, where: Where) -> None:
        """Nothing is fired from now on."""
        self.operate(where, "SELECT pgq_pause_schedule('s')", ScheduledModel.pause)

    @rule(where=wheres)
    def resume_schedule(self, where: Where) -> None:
        """The slots of the pause are left out."""
        self.operate(where, "SELECT pgq_resume_schedule('s')", ScheduledModel.resume)

    @rule(where=wheres)
    def run_schedule(self, where: Where) -> None:
        """A job is enqueued now."""
        self.operate(where, "SELECT pgq_run_schedule('s')", ScheduledModel.run)

    @scheduled
    @rule(where=wheres)
    def unschedule(self, where: Where) -> None:
        """The jobs of the schedule stay."""
        self.operate(where, "SELECT pgq_unschedule('s')", ScheduledModel.unschedule)

    def moments(self) -> set[datetime | None]:
        """Return the times at which something may happen to a job, and the next slot."""
        schedule = of_schedule(self.model).schedule
        return super().moments() | {schedule.next_at if schedule else None}

    def taken(
        self, model: Model, rows: Rows, names: list[str], max_jobs: int, lease: timedelta, locked: Collection[int]
    ) -> list[Job]:
        """Return the jobs that a claim takes in the model, after it has fired what is due."""
        of_schedule(model).new_ids = self.new_ids(rows)
        return super().taken(model, rows, names, max_jobs, lease, locked)

    @invariant()
    def the_schedule_agrees(self) -> None:
        """The view shows what the model says."""
        found = self.connections[0].execute(SEE_SCHEDULE).fetchall()
        schedule = of_schedule(self.model).schedule
        assert found == (
            []
            if schedule is None
            else [
                (
                    None if schedule.paused else schedule.next_at,
                    schedule.paused,
                    schedule.last_at,
                    schedule.last_job,
                    schedule.missed,
                )
            ]
        )
