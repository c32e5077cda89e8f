"""Versions: the driver's, and whether the SQL in a database is new enough for it."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version as distribution_version

from pgq.errors import Outdated
from pgq.queue import Queue


@cache
def driver_version() -> str:
    """Return the version of this driver, which is also that of the SQL it carries."""
    return distribution_version("pgq-jobs")


def parse_version(version: str) -> tuple[int, ...]:
    """Return a version as numbers, for comparisons."""
    return tuple(int(part) for part in version.split("."))


def check_version(queue: Queue) -> None:
    """Raise Outdated when the SQL is older than this driver. Newer SQL is fine: it also serves older drivers."""
    installed = queue.version()
    if parse_version(installed) < parse_version(driver_version()):
        raise Outdated(
            f"this driver is version {driver_version()}, and the SQL in the database {installed}",
            hint="Run pgq upgrade, with the same --dsn and --schema.",
        )
