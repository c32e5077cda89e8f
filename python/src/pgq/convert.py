"""Values of Python's as PostgreSQL takes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from pgq.job import Job

Interval = timedelta | str
# PostgreSQL takes 1 MiB of its own text, in which an escaped character of six takes two bytes or more.
LONGEST_RESULT = 4 * 1024 * 1024


def dumps(value: Any) -> str:
    """JSON as PostgreSQL takes it; raises TypeError or ValueError for what JSON cannot say, NaN included."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def as_result(value: Any) -> str:
    """
    A result as JSON. Raises ValueError for one that the database would refuse for its size anyhow: a gigabyte costs the
    connection.
    """
    text = dumps(value)
    if len(text) > LONGEST_RESULT:
        raise ValueError(f"the result takes {len(text)} characters as JSON")
    return text


def interval(value: Interval | None) -> str | None:
    """An interval as text: a day of Python's has 24 hours, while PostgreSQL's follows the clock of its time zone."""
    if not isinstance(value, timedelta):
        return value
    # In two parts, because PostgreSQL 14 takes no number of more than 32 bits.
    minutes, rest = divmod(value, timedelta(minutes=1))
    return f"{minutes} minutes {rest // timedelta(microseconds=1)} microseconds"


def check_aware(name: str, at: datetime) -> None:
    """Raise ValueError for a datetime without a time zone: which moment it means would depend on the server."""
    if at.utcoffset() is None:
        raise ValueError(f"{name} {at} has no time zone")


def held(jobs: Iterable[Job]) -> tuple[str, str]:
    """The ids and the tokens as arrays: written out, because psycopg takes its time with each element of a list."""
    ids, tokens = [], []
    for job in jobs:
        ids.append(str(job.id))
        tokens.append(str(job.token))
    return f"{{{','.join(ids)}}}", f"{{{','.join(tokens)}}}"


def given(job: Mapping[str, Any]) -> dict[str, Any]:
    """A job without what is None; as the arguments, None is the JSON null."""
    return {name: value for name, value in job.items() if value is not None or name == "args"}


def plain_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """A job with its times and intervals as text; what is JSON is left as it is."""
    plain: dict[str, Any] = {}
    for name, value in job.items():
        if name == "ripe_at" and isinstance(value, datetime):
            check_aware(name, value)
            plain[name] = value.isoformat()
        elif isinstance(value, timedelta) and name not in {"args", "context"}:
            plain[name] = interval(value)
        else:
            plain[name] = value
    return plain


def qualifier(conn: psycopg.Connection[Any], schema: str | None) -> str:
    """What goes before the name of an object of pgq in a query that has parameters; nothing without a schema."""
    return f"{sql.Identifier(schema).as_string(conn)}.".replace("%", "%%") if schema else ""
