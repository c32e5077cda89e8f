"""
pgq with jobs in groups, or with a limit.

``grouped:1000`` has a thousand groups, ``grouped:1000:4`` at most four running jobs of each, ``grouped:0:10`` no groups
and at most ten running jobs of all.
"""

from __future__ import annotations

import json
from functools import partial

from contender import Contender
from databases import connect
from job import KIND, args

from contenders import pgq


class Producer(pgq.Producer):
    """The driver's own calls; job ``n`` is in group ``n`` modulo the number of groups."""

    def __init__(self, groups: int, database: str) -> None:
        super().__init__(database)
        self.groups = groups

    def one(self, n: int) -> None:
        self.queue.enqueue(KIND, args(n), group_key=self.group(n))

    def many(self, first: int, count: int, pad: str = "") -> None:
        numbers = range(first, first + count)
        self.queue.enqueue_many({"kind": KIND, "args": args(n, pad), "group_key": self.group(n)} for n in numbers)

    def group(self, n: int) -> str | None:
        """Return the key of the group of job ``n``, if there are groups."""
        return f"group {n % self.groups}" if self.groups else None


def variant(text: str) -> Contender:
    """Return pgq with so many groups and, after a colon, a limit."""
    groups, _, limit = text.partition(":")
    settings = {"max_per_group" if int(groups) else "max_running": int(limit)} if limit else {}
    return Contender(
        f"grouped:{text}", pgq.LEFT, partial(install, settings), partial(Producer, int(groups)), pgq.CONTENDER.work
    )


def install(settings: dict[str, int], database: str) -> None:
    pgq.install(database)
    with connect(database) as conn:
        conn.execute("SELECT pgq_configure('default', %s::jsonb)", [json.dumps(settings)])
