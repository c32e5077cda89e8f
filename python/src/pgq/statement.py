"""Statements that enqueue, for any driver to execute in the transaction that its caller is in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple

from pgq import handlers
from pgq.calls import NO_ARGS, Call, Calls
from pgq.convert import Interval
from pgq.handlers import Handlers
from pgq.new_job import AfterFailed, NewJob, OnDuplicate

Paramstyle = Literal["format", "pyformat", "numeric_dollar"]
# A parameter, with the name of its argument and with its cast from text, if it has them.
PARAMETER: Final = re.compile(
    r"(?P<escaped>%%)|(?P<arrow>(?P<name>\w+) => )?%s(?P<cast>::(?:jsonb|interval|timestamptz))?"
)


class Statement(NamedTuple):
    """A statement, and its parameters: a mapping for ``pyformat``, or else a tuple."""

    sql: str
    params: tuple[Any, ...] | dict[str, Any]


def statement(
    kind: str,
    args: Any = NO_ARGS,
    *,
    queue: str | None = None,
    ripe_at: datetime | None = None,
    delay: Interval | None = None,
    priority: int | None = None,
    max_retries: int | None = None,
    backoff: Interval | None = None,
    backoff_cap: Interval | None = None,
    dedup: bool | None = None,
    dedup_key: str | None = None,
    on_duplicate: OnDuplicate | None = None,
    context: Mapping[str, Any] | None = None,
    group_key: str | None = None,
    dedup_for: Interval | None = None,
    after: Iterable[int] | None = None,
    after_failed: AfterFailed | None = None,
    paramstyle: Paramstyle = "format",
    schema: str | None = None,
    handlers: Handlers = handlers.default,
) -> Statement:
    """
    Return the statement by which ``Queue.enqueue`` enqueues a job, for a connection of any driver.

    It returns a row with ``id`` and ``created``. ``paramstyle`` is how the driver writes parameters: ``%s``,
    ``%(name)s`` or ``$1``, by the names that SQLAlchemy's dialects have for them. All other arguments are those of
    ``Queue`` and ``Queue.enqueue``. Errors are those of the driver.
    """
    return in_style(Calls(schema, handlers).enqueue(locals()), paramstyle)


def statement_many(
    jobs: Iterable[NewJob],
    *,
    paramstyle: Paramstyle = "format",
    schema: str | None = None,
    handlers: Handlers = handlers.default,
) -> Statement:
    """
    Return the statement by which ``Queue.enqueue_many`` enqueues jobs; it returns a row for each, as ``statement``
    does.
    """
    return in_style(Calls(schema, handlers).enqueue_many(jobs), paramstyle)


def in_style(call: Call[Any], paramstyle: Paramstyle) -> Statement:
    """Return the statement of a call with its parameters in a style. Raises ValueError for a style that is unknown."""
    if paramstyle == "format":
        return Statement(call.query, tuple(call.params))
    query, names = _converted(call.query, paramstyle)
    return Statement(
        query, dict(zip(names, call.params, strict=True)) if paramstyle == "pyformat" else tuple(call.params)
    )


@lru_cache(256)
def _converted(query: str, paramstyle: str) -> tuple[str, list[str]]:
    """Return a query in another style, and for pyformat the names of its parameters."""
    names: list[str] = []
    count = 0

    def named(found: re.Match[str]) -> str:
        if found["escaped"]:
            return found[0]
        names.append(found["name"] or f"p{len(names) + 1}")
        return f"{found['arrow'] or ''}%({names[-1]})s{found['cast'] or ''}"

    def numbered(found: re.Match[str]) -> str:
        nonlocal count
        if found["escaped"]:
            return "%"
        count += 1
        # The server tells such a driver the type of each parameter, for which it would take no text.
        return f"{found['arrow'] or ''}${count}{'::text' if found['cast'] else ''}{found['cast'] or ''}"

    if paramstyle not in {"pyformat", "numeric_dollar"}:
        raise ValueError(f'paramstyle "{paramstyle}" is none of format, pyformat and numeric_dollar')
    return PARAMETER.sub(named if paramstyle == "pyformat" else numbered, query), names
