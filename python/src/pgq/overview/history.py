"""An hour of snapshots in memory, and what happened per second between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from pgq.overview.snapshot import Snapshot

# Snapshots older than this are thinned to one in each SPACING.
RECENT: Final = timedelta(minutes=2)
SPACING: Final = timedelta(seconds=15)
Key = tuple[str, str]


class Total(NamedTuple):
    """
    The counters of a queue and kind at one time.

    ``live`` is the number of jobs that have not ended, None if it was estimated or not read.
    """

    live: int | None
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

    @property
    def ended(self) -> int:
        """The number of jobs that are over, each time that they were."""
        return self.done + self.dead + self.cancelled + self.merged


NONE: Final = Total(0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0.0)


@dataclass(frozen=True, slots=True)
class Rates:
    """
    What happened per second in the time before ``at``; None is not known.

    ``enqueued`` of all queues is the growth of the numbers of jobs where many jobs wait, and then counts duplicates,
    too. ``ended`` is done, dead, cancelled or merged; ``failed`` counts attempts. ``waited`` is for how many seconds
    the jobs that were claimed had been ripe, ``ran`` how long those that were done took, both on average.
    """

    at: datetime
    enqueued: float | None = None
    ended: float | None = None
    done: float | None = None
    failed: float | None = None
    waited: float | None = None
    ran: float | None = None


@dataclass(frozen=True)
class Moment:
    """What is kept of a snapshot."""

    at: datetime
    ids: int | None
    totals: Mapping[Key, Total]


class History:
    """The snapshots of the last hour, thinned, and the newest as a whole."""

    def __init__(self, span: timedelta = timedelta(hours=1)) -> None:
        self._longest = span
        self._moments: deque[Moment] = deque()
        self.newest: Snapshot | None = None

    def add(self, snapshot: Snapshot) -> None:
        """
        Add a snapshot that is newer than the others.

        When the clock or a number of the server has gone back, as after a restore, the history begins anew.
        """
        self.newest = snapshot
        if "counters" in snapshot.unknown:
            return
        last = self._moments[-1] if self._moments else None
        moment = Moment(snapshot.at, snapshot.ids, _totals(snapshot, last.totals if last else {}))
        if last and (moment.at <= last.at or _went_back(last, moment)):
            self._moments.clear()
        self._moments.append(moment)
        while self._moments[0].at < moment.at - self._longest:
            self._moments.popleft()
        self._thin()

    @property
    def span(self) -> timedelta:
        """How long ago the oldest of the snapshots is."""
        return self._moments[-1].at - self._moments[0].at if self._moments else timedelta(0)

    def rates(
        self, over: timedelta = timedelta(seconds=60), *, queue: str | None = None, kind: str | None = None
    ) -> Rates | None:
        """
        Return the rates of the last so many seconds, of a queue, a kind, or all; None before the second snapshot.

        The time is longer where the snapshots are further apart, and shorter where there are none from before.
        """
        if len(self._moments) < 2:
            return None
        newest = self._moments[-1]
        return _between(self._before(newest.at - over) or self._moments[0], newest, self._keys(queue, kind))

    def series(
        self, points: int, step: timedelta, *, queue: str | None = None, kind: str | None = None
    ) -> list[Rates | None]:
        """Return the rates of so many steps up to now, the oldest first; None where there are no snapshots."""
        if not self._moments:
            return [None] * points
        now = self._moments[-1].at
        keys = self._keys(queue, kind)
        found: list[Rates | None] = []
        for n in range(points, 0, -1):
            begin, end = self._before(now - n * step), self._before(now - (n - 1) * step)
            if begin is end and end is not None:
                # No snapshot lies in this step: the rates are those of the longer time around it.
                end = next((moment for moment in self._moments if moment.at > end.at), None)
            found.append(_between(begin, end, keys) if begin and end else None)
        return found

    def _keys(self, queue: str | None, kind: str | None) -> Sequence[Key] | None:
        """Return the queues and kinds that are meant; None: all. One without a row has no counters."""
        if queue is None and kind is None:
            return None
        return [key for key in self._moments[-1].totals if queue in (None, key[0]) and kind in (None, key[1])]

    def _before(self, at: datetime) -> Moment | None:
        """Return the newest moment that is not after a time."""
        return next((moment for moment in reversed(self._moments) if moment.at <= at), None)

    def _thin(self) -> None:
        """Remove one of the moments that are no longer recent, if it is too near the one before it."""
        edge = self._moments[-1].at - RECENT
        for n in range(len(self._moments) - 2, 0, -1):
            if self._moments[n].at <= edge:
                if self._moments[n].at - self._moments[n - 1].at < SPACING:
                    del self._moments[n]
                return


def _totals(snapshot: Snapshot, before: Mapping[Key, Total]) -> dict[Key, Total]:
    """Return the counters by queue and kind. What has not changed is not stored again."""
    live: dict[Key, int | None] = {}
    if "kinds" not in snapshot.unknown:
        live = {
            (row.queue, row.kind): None if row.estimated else row.waiting + row.blocked + row.running
            for row in snapshot.kinds
        }
    absent = None if "kinds" in snapshot.unknown else 0
    totals = {
        (row.queue, row.kind): Total(
            live.pop((row.queue, row.kind), absent), row.claimed, row.done, row.failed, row.dead, row.cancelled,
            row.merged, row.retried, row.waited_seconds, row.timed, row.ran_seconds,
        )
        for row in snapshot.counters
    }  # fmt: skip
    totals |= {key: NONE._replace(live=number) for key, number in live.items()}
    return {key: before[key] if before.get(key) == total else total for key, total in totals.items()}


def _went_back(last: Moment, moment: Moment) -> bool:
    """Return whether a number is smaller than before that only grows."""
    if last.ids is not None and moment.ids is not None and moment.ids < last.ids:
        return True
    return any(moment.totals.get(key, NONE).claimed < total.claimed for key, total in last.totals.items())


def _between(begin: Moment, end: Moment, keys: Sequence[Key] | None) -> Rates:
    """Return the rates between two moments, of these queues and kinds, or of all."""
    seconds = (end.at - begin.at).total_seconds()
    enqueued: int | None = 0
    ended = done = failed = claimed = timed = 0
    waited = ran = 0.0
    for key in begin.totals.keys() | end.totals.keys() if keys is None else keys:
        first, last = begin.totals.get(key, NONE), end.totals.get(key, NONE)
        gone = last.ended - first.ended
        ended += gone
        if enqueued is None or first.live is None or last.live is None:
            enqueued = None
        else:
            enqueued += last.live - first.live + gone - (last.retried - first.retried)
        done += last.done - first.done
        failed += last.failed - first.failed
        claimed += last.claimed - first.claimed
        waited += last.waited_seconds - first.waited_seconds
        timed += last.timed - first.timed
        ran += last.ran_seconds - first.ran_seconds
    if enqueued is None and keys is None and begin.ids is not None and end.ids is not None:
        enqueued = end.ids - begin.ids
    return Rates(
        at=end.at,
        # The jobs and the counters are read one after the other: a job may move in between.
        enqueued=None if enqueued is None else max(enqueued, 0) / seconds,
        ended=ended / seconds,
        done=done / seconds,
        failed=failed / seconds,
        waited=waited / claimed if claimed else None,
        ran=ran / timed if timed else None,
    )
