"""Random cron expressions and instants, and when cronsim fires next."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

# Where cronsim finds each time, and where it misses some or never ends: there clocks change about midnight, or not by
# whole hours.
EXACT = ("UTC", "Europe/Berlin", "Europe/Dublin", "America/New_York", "Antarctica/Troll")
ODD = (
    "Australia/Lord_Howe",
    "America/Havana",
    "America/Sao_Paulo",
    "America/St_Johns",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "Pacific/Apia",
)
FIRST, LAST = datetime(1975, 1, 1, tzinfo=UTC), datetime(2090, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "weekday": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}


@dataclass(frozen=True)
class Case:
    """A call of pgq_cron_next."""

    cron: str
    after: datetime
    timezone: str

    @property
    def is_clear(self) -> bool:
        """Whether cronsim finds each time: clocks change as in most places, or minutes and hours are fixed."""
        return self.timezone in EXACT or not any(field.startswith("*") for field in self.cron.split()[:2])


@cache
def clock_changes(timezone: str) -> list[datetime]:
    """Return about when the clocks of a time zone change: in the two days from each of these instants on."""
    zone = ZoneInfo(timezone)
    step = timedelta(days=2)
    days = [FIRST + n * step for n in range((LAST - FIRST) // step)]
    return [d for d in days if d.astimezone(zone).utcoffset() != (d + step).astimezone(zone).utcoffset()]


def item(rng: random.Random, low: int, high: int, field: str) -> str:
    """Return one item of a field, in any form."""

    def value(low: int = low) -> str:
        n = rng.randint(low, high)
        names = NAMES.get(field, [])
        if names and rng.random() < 0.3 and n - (field == "month") < len(names):
            return str(rng.choice([str.upper, str.lower, str.title])(names[n - (field == "month")]))
        return str(n)

    form = rng.random()
    if field == "day" and form < 0.15:
        return rng.choice(["L", "LW"])
    if field == "weekday" and form < 0.15:
        return f"{value()}#{rng.randint(1, 5)}" if rng.random() < 0.6 else f"{rng.randint(0, 7)}L"
    step = f"/{rng.choice([1, 2, 3, 5, 7, 15, 20, 30, 99])}"
    if form < 0.3:
        return "*" + step
    if form < 0.45:
        return value() + step
    if form < 0.65:
        first = rng.randint(low, high)
        return f"{first}-{rng.randint(first, high)}" + step * (rng.random() < 0.4)
    return value()


def expression(rng: random.Random) -> str:
    """Return a random expression; the fewer fields are restricted, the sooner it fires."""
    fields = []
    for field, low, high in [("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7)]:
        if rng.random() < (0.7 if field in {"day", "month", "weekday"} else 0.3):
            fields.append("*")
        elif field == "hour" and rng.random() < 0.5:
            # When clocks change.
            fields.append(str(rng.randint(0, 3)))
        else:
            fields.append(",".join(item(rng, low, high, field) for _ in range(rng.choice([1, 1, 1, 2, 3]))))
    return rng.choice([" ", " ", "  ", "\t"]).join(fields)


def instant(rng: random.Random, timezone: str) -> datetime:
    """Return a random instant: near a change of the clocks, the end of a February or of a month, or anywhere."""
    kind = rng.random()
    changes = clock_changes(timezone)
    if kind < 0.5 and changes:
        at = rng.choice(changes) + timedelta(seconds=rng.randint(-86400, 3 * 86400))
    elif kind < 0.6:
        at = datetime(rng.randint(1975, 2089), 2, 27, tzinfo=UTC) + timedelta(seconds=rng.randint(0, 4 * 86400))
    elif kind < 0.7:
        at = datetime(rng.randint(1975, 2088), rng.randint(1, 12), 28, tzinfo=UTC)
        at += timedelta(seconds=rng.randint(0, 5 * 86400))
    else:
        at = FIRST + timedelta(seconds=rng.randint(0, int((LAST - FIRST).total_seconds())))
    if rng.random() < 0.3:
        at = at.replace(second=0)
    return at + timedelta(microseconds=rng.choice([0, 0, 1, 500000, 999999]))


def cases(seed: int, count: int) -> Iterator[Case]:
    """Yield random cases, the same for a seed."""
    rng = random.Random(seed)
    for _ in range(count):
        timezone = rng.choice(EXACT + ODD)
        yield Case(expression(rng), instant(rng, timezone), timezone)


def cronsim_next(case: Case) -> datetime | None:
    """Return what cronsim finds after the instant; None: it never fires."""
    try:
        times = CronSim(case.cron, case.after.astimezone(ZoneInfo(case.timezone)))
    except CronSimError:
        return None
    # From within a repeated hour, cronsim begins with times of the hour that is repeated, which have passed.
    return next((at for at in (t.astimezone(UTC) for t in times) if at > case.after), None)


def named(case: Case, after: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the minutes after one instant and up to another at which the clocks show a time that is named."""
    zone = ZoneInfo(case.timezone)
    sim = CronSim(case.cron, after.astimezone(UTC))

    @cache
    def is_named(day: date) -> bool:
        return day.month in sim.months and sim.match_day(day)

    at = after.replace(second=0, microsecond=0) + MINUTE
    while at <= until:
        wall = at.astimezone(zone)
        if is_named(wall.date()):
            if wall.hour in sim.hours and wall.minute in sim.minutes:
                yield at
            at += MINUTE
        elif any(is_named(wall.date() + timedelta(days=days)) for days in (1, 2)):
            at += timedelta(minutes=15 - at.minute % 15)
        else:
            at += timedelta(hours=12)
