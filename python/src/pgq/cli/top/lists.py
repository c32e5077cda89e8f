"""The lists of ``pgq top``: rows of text from a snapshot and its history, and the columns in which they are shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pgq.cli.output import Column
from pgq.cli.top.figures import BARS, number, rate, span, sparkline
from pgq.doctor import Examination
from pgq.overview import History, KindNumbers, Rates, Snapshot

# Rates are those of so many seconds.
OVER: Final = timedelta(seconds=60)
# How many bars the chart of a queue has, and for how many seconds a bar of any chart may stand.
BAR_COUNT: Final = 12
STEPS: Final = (2, 5, 10, 30, 60)


@dataclass(frozen=True)
class Row:
    """A line of a list: its cells, its values to sort by, and what actions are about."""

    cells: Mapping[str, Any]
    keys: Mapping[str, Any]
    queue: str | None = None
    kind: str | None = None
    job: int | None = None
    error: str | None = None
    alarm: bool = False


@dataclass(frozen=True)
class Source:
    """What the rows of a list are made of."""

    snapshot: Snapshot
    history: History
    examination: Examination | None = None
    bars: str = BARS

    def step(self, count: int) -> timedelta:
        """Return for how long a bar stands, so that so many show what there is, or the newest of it."""
        seconds = self.history.span.total_seconds() / count
        return timedelta(seconds=next((step for step in STEPS if step >= seconds), STEPS[-1]))


@dataclass(frozen=True)
class Listing:
    """A list: its title, its columns, the part of the snapshot that it shows, and how its rows are made."""

    title: str
    columns: Sequence[Column]
    part: str
    rows: Callable[[Source], Iterable[Row]]
    empty: str


def _jobs_row(source: Source, queue: str, kind: str | None, kinds: Sequence[KindNumbers], state: str) -> Row:
    """Return the row of a queue, or of a kind in it."""
    rates = source.history.rates(OVER, queue=queue, kind=kind) or Rates(source.snapshot.at)
    series = source.history.series(BAR_COUNT, source.step(BAR_COUNT), queue=queue, kind=kind)
    rough = any(numbers.estimated for numbers in kinds)
    oldest = max((numbers.oldest_ripe_age for numbers in kinds if numbers.oldest_ripe_age is not None), default=None)
    keys: dict[str, Any] = {
        "queue": queue,
        "kind": kind,
        "waiting": sum(numbers.waiting for numbers in kinds),
        "ripe": sum(numbers.ripe for numbers in kinds),
        "running": sum(numbers.running for numbers in kinds),
        "blocked": sum(numbers.blocked for numbers in kinds),
        "dead": sum(numbers.dead for numbers in kinds),
        "in/s": rates.enqueued,
        "out/s": rates.ended,
        "failed/s": rates.failed,
        "waited": rates.waited,
        "oldest": oldest,
        "state": state,
    }
    cells = {
        "queue": queue,
        "kind": kind,
        **{name: counted(name, keys[name], rough) for name in ("waiting", "ripe", "blocked", "running", "dead")},
        "in/s": rate(rates.enqueued),
        "out/s": rate(rates.ended),
        "failed/s": rate(rates.failed),
        "waited": span(rates.waited),
        "oldest": span(oldest),
        "out": sparkline([None if each is None else each.ended for each in series], source.bars),
        "state": state,
    }
    return Row(cells, keys, queue=queue, kind=kind, alarm=bool(state) or bool(rates.failed))


def counted(name: str, value: int, rough: bool) -> str:
    """Return a number of jobs; running ones, and up to 10,000 that are dead, are never estimated."""
    return number(value, estimated=rough and name != "running" and (name != "dead" or value > 10_000))


def _states(snapshot: Snapshot) -> dict[str, str]:
    """Return what keeps the jobs of each queue from starting."""
    return {place.queue: place.why for place in snapshot.places if place.why}


def queue_rows(source: Source) -> Iterable[Row]:
    """Return a row for each queue that has jobs, had some, or is paused or full."""
    states = _states(source.snapshot)
    kinds: dict[str, list[KindNumbers]] = {queue: [] for queue in states}
    kinds |= {counters.queue: [] for counters in source.snapshot.counters}
    for numbers in source.snapshot.kinds:
        kinds.setdefault(numbers.queue, []).append(numbers)
    for queue, its in kinds.items():
        yield _jobs_row(source, queue, None, its, states.get(queue) or _unhandled(its))


def kind_rows(source: Source) -> Iterable[Row]:
    """Return a row for each queue and kind."""
    kinds: dict[tuple[str, str], list[KindNumbers]] = defaultdict(list)
    for counters in source.snapshot.counters:
        kinds[counters.queue, counters.kind] = []
    for numbers in source.snapshot.kinds:
        kinds[numbers.queue, numbers.kind].append(numbers)
    for (queue, kind), its in kinds.items():
        yield _jobs_row(source, queue, kind, its, _unhandled(its))


def _unhandled(kinds: Sequence[KindNumbers]) -> str:
    """Return what is wrong where ripe jobs wait and no present worker has a handler for them."""
    return "not handled" if any(numbers.ripe and numbers.handled is False for numbers in kinds) else ""


def wait_rows(source: Source) -> Iterable[Row]:
    """Return the job of each queue that has been ripe for longest."""
    for wait in source.snapshot.waits:
        keys = {"job": wait.id, "queue": wait.queue, "kind": wait.kind, "attempt": wait.attempt, "waits": wait.age}
        cells = keys | {"waits": span(wait.age), "ripe at": local(wait.ripe_at)}
        yield Row(cells, keys | {"ripe at": wait.ripe_at}, queue=wait.queue, kind=wait.kind, job=wait.id)


def cause_rows(source: Source) -> Iterable[Row]:
    """Return why jobs died within the last hour."""
    for cause in source.snapshot.deaths:
        keys = {
            "jobs": cause.jobs,
            "queue": cause.queue,
            "kind": cause.kind,
            "newest": cause.newest_job,
            "ago": since(source, cause.newest_at),
            "error": cause.error or "",
        }
        cells = keys | {"ago": span(since(source, cause.newest_at)), "error": cause.error}
        yield Row(cells, keys, queue=cause.queue, kind=cause.kind, job=cause.newest_job, error=cause.error, alarm=True)


def since(source: Source, moment: datetime) -> timedelta:
    """Return how long before the snapshot something was; what has come while its parts were read was just now."""
    return max(source.snapshot.at - moment, timedelta())


def worker_rows(source: Source) -> Iterable[Row]:
    """Return the workers and what they work on."""
    for worker in source.snapshot.workers:
        busy = None if worker.oldest_claimed_at is None else since(source, worker.oldest_claimed_at)
        state = "gone" if worker.present is False else "overdue" if worker.overdue else ""
        keys = {
            "worker": worker.name,
            "host": worker.host,
            "pid": worker.pid,
            "running": worker.running,
            "since": busy,
            "kinds": list(worker.kinds or ()),
            "queues": list(worker.queues or ()),
            "state": state,
        }
        yield Row(keys | {"since": span(busy)}, keys, alarm=bool(state))


def finding_rows(source: Source) -> Iterable[Row]:
    """Return what the doctor has found, the worst first."""
    for finding in source.examination.findings if source.examination else ():
        cells = {"severity": finding.severity, "finding": finding.title, "mend": finding.remedy}
        yield Row(cells, cells, alarm=finding.severity != "note")


def local(moment: datetime) -> str:
    """Return a time in the zone of this process, with the name of the zone."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


LISTS: Final[Mapping[str, Listing]] = {
    "queues": Listing(
        "queues",
        (
            Column("queue", 0, least=8), Column("waiting", 1, right=True), Column("ripe", 6, right=True),
            Column("running", 3, right=True), Column("in/s", 4, right=True), Column("out/s", 4, right=True),
            Column("failed/s", 5, right=True), Column("waited", 6, right=True), Column("oldest", 2, right=True),
            Column("blocked", 9, right=True), Column("dead", 3, right=True), Column("out", 8),
            Column("state", 2, least=6),
        ),
        "kinds", queue_rows, "no queue has jobs",
    ),
    "kinds": Listing(
        "kinds",
        (
            Column("queue", 0, least=8), Column("kind", 0, least=8), Column("waiting", 1, right=True),
            Column("ripe", 6, right=True), Column("running", 3, right=True), Column("in/s", 4, right=True),
            Column("out/s", 4, right=True), Column("failed/s", 5, right=True), Column("waited", 7, right=True),
            Column("oldest", 2, right=True), Column("blocked", 9, right=True), Column("dead", 3, right=True),
            Column("out", 8), Column("state", 2, least=6),
        ),
        "kinds", kind_rows, "no queue has jobs",
    ),
    "waits": Listing(
        "longest waiting, of each queue",
        (
            Column("waits", 0, right=True), Column("job", 1, right=True), Column("queue", 2, least=8),
            Column("kind", 2, least=8), Column("attempt", 6, right=True), Column("ripe at", 7),
        ),
        "waits", wait_rows, "no job waits that is ripe",
    ),
    "deaths": Listing(
        "died within the last hour",
        (
            Column("jobs", 0, right=True), Column("queue", 1, least=8), Column("kind", 1, least=8),
            Column("error", 0, least=20), Column("newest", 5, right=True), Column("ago", 4, right=True),
        ),
        "deaths", cause_rows, "no job has died",
    ),
    "workers": Listing(
        "workers",
        (
            Column("worker", 0, least=12), Column("running", 1, right=True), Column("since", 2, right=True),
            Column("kinds", 3, least=8), Column("queues", 4, least=8), Column("host", 7, least=8),
            Column("pid", 6, right=True), Column("state", 2),
        ),
        "workers", worker_rows, "no worker is registered",
    ),
    "doctor": Listing(
        "what pgq doctor says",
        (Column("severity", 0), Column("finding", 0, least=20), Column("mend", 1, least=20)),
        "doctor", finding_rows, "nothing is wrong",
    ),
}  # fmt: skip
