"""The schedule that the options of @handler declare."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

CatchUp = Literal["one", "all", "none"]
Overlap = Literal["skip", "allow"]


@dataclass(frozen=True)
class Schedule:
    """The arguments of pgq_schedule beside the name and the job; None: its default."""

    cron: str
    timezone: str | None = None
    catch_up: CatchUp | None = None
    overlap: Overlap | None = None
    jitter: timedelta | None = None


def schedule_of(
    cron: str | None,
    timezone: str | None,
    catch_up: CatchUp | None,
    overlap: Overlap | None,
    jitter: timedelta | None,
) -> Schedule | None:
    """Return the schedule of a handler, or None for one without. Raises ValueError for options of no schedule."""
    if cron is not None:
        return Schedule(cron, timezone, catch_up, overlap, jitter)
    options = {"timezone": timezone, "catch_up": catch_up, "overlap": overlap, "jitter": jitter}
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name} is given without a schedule")
    return None
