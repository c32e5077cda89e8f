"""What a rate promises, from the times at which jobs have started."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

PERS = {"00:01:00": timedelta(minutes=1), "00:10:00": timedelta(minutes=10)}


@dataclass(frozen=True)
class Rate:
    """How many jobs may start in an interval, and how many at once."""

    jobs: int
    per: timedelta
    burst: int

    def steps(self, span: timedelta) -> int:
        """Return how many jobs use up a span, rounded up; 0 if it is negative."""
        return max(-(span * -self.jobs // self.per), 0)

    def span(self, steps: int) -> timedelta:
        """Return the span that some jobs use up, rounded up to a microsecond."""
        return -(self.per * -steps // self.jobs)


@dataclass(frozen=True)
class Starts:
    """Until when the jobs that have started use up the rate, and when those have started that count in full."""

    spent: datetime
    times: tuple[datetime, ...] = ()

    def room(self, rate: Rate, at: datetime) -> int:
        """Return how many jobs may start at a time."""
        return max(rate.burst - rate.steps(self.spent - at), 0)

    def more(self, jobs: int, rate: Rate, at: datetime) -> Starts:
        """Return the starts with those of some jobs. No interval has more than the burst and what the rate allows."""
        times = self.times + (at,) * jobs
        for n, since in enumerate(times):
            assert len(times) - n <= rate.burst + rate.jobs * (at - since) / rate.per
        return Starts(max(self.spent, at) + rate.span(jobs), times)

    def under(self, rate: Rate | None, at: datetime) -> Starts:
        """Return the starts as they count once the rate is changed: they have used up the burst at most."""
        return Starts(self.spent if rate is None else min(self.spent, at + rate.span(rate.burst)))
