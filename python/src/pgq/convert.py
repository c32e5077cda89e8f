"""Convert Python values to the form in which the SQL functions take them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

if TYPE_CHECKING:
    from pgq.job import Job

Interval = timedelta | str
# As ``default`` of json.dumps: it returns what is encoded instead of a value that is not in JSON, or raises TypeError.
Default = Callable[[Any], Any]
# The SQL takes up to 1 MiB in PostgreSQL's text form. In Python's, an escape of six characters stands for two bytes or
# more of that, so a result that is refused here is too long in either form.
LONGEST_RESULT = 4 * 1024 * 1024
# A result that is kept, unlike None: the JSON null.
NULL: Final = object()


def dumps(value: Any, hook: Default | None = None) -> str:
    """
    Return a value as JSON.

    ``hook`` converts what is not in JSON, and ``to_json`` what the hook raises TypeError for. Raises TypeError or
    ValueError for the rest, NaN included.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":"), default=_default(hook))


def to_json(value: Any) -> Any:
    """
    Return what is encoded instead of a value that is not in JSON. Raises TypeError.

    The same value always gives the same text, because arguments decide what a duplicate is. A set has no such text: its
    order differs between two processes. Bytes have several.
    """
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    # As text, because a number would come back as a float, which has fewer digits.
    if isinstance(value, Decimal | UUID):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _default(hook: Default | None) -> Default:
    if hook is None:
        return to_json

    def default(value: Any) -> Any:
        try:
            return hook(value)
        except TypeError as error:
            try:
                return to_json(value)
            except TypeError:
                raise error from None

    return default


def as_result(value: Any, hook: Default | None = None) -> str:
    """
    Return the result of a job as JSON, as ``dumps`` does.

    Raises ValueError for a result that the database would refuse for its size: sending a gigabyte costs the connection.
    """
    text = "null" if value is NULL else dumps(value, hook)
    if len(text) > LONGEST_RESULT:
        raise ValueError(f"the result takes {len(text)} characters as JSON")
    return text


def interval(value: Interval | None) -> str | None:
    """
    Return an interval as text.

    A timedelta is written without days: a day of Python's has 24 hours, while one of PostgreSQL's follows the clock of
    the session's time zone.
    """
    if not isinstance(value, timedelta):
        return value
    # In two parts, because PostgreSQL 14 takes no number of more than 32 bits.
    minutes, rest = divmod(value, timedelta(minutes=1))
    return f"{minutes} minutes {rest // timedelta(microseconds=1)} microseconds"


def check_aware(name: str, value: datetime) -> None:
    """Raise ValueError for a datetime without a time zone: the server's settings would decide which moment it means."""
    if value.utcoffset() is None:
        raise ValueError(f"{name} {value} has no time zone")


def moment(name: str, value: datetime | None) -> str | None:
    """Return a time as text. Raises ValueError for one without a time zone."""
    if value is None:
        return None
    check_aware(name, value)
    return value.isoformat()


def held(jobs: Iterable[Job]) -> tuple[str, str]:
    """Return the ids and the tokens as array literals, because psycopg adapts the elements of a list one by one."""
    ids, tokens = [], []
    for job in jobs:
        ids.append(str(job.id))
        tokens.append(str(job.token))
    return f"{{{','.join(ids)}}}", f"{{{','.join(tokens)}}}"


def given(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are not None, and ``args`` in any case, where None is the JSON null."""
    return {name: value for name, value in job.items() if value is not None or name == "args"}


def plain_job(job: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the arguments with times and intervals as text, the values of enums, and ``after`` as a list; ``args`` and
    ``context`` stay as they are.
    """
    plain: dict[str, Any] = {}
    for name, value in job.items():
        if name == "ripe_at" and isinstance(value, datetime):
            plain[name] = moment(name, value)
        elif name in {"args", "context"}:
            plain[name] = value
        elif name == "after" and isinstance(value, Iterable) and not isinstance(value, str):
            plain[name] = list(value)
        elif isinstance(value, timedelta):
            plain[name] = interval(value)
        elif isinstance(value, Enum):
            # psycopg would take the name, and JSON takes the value.
            plain[name] = value.value
        else:
            plain[name] = value
    return plain


def qualifier(schema: str | None) -> str:
    """Return the prefix for the names of pgq in a query with parameters: the schema and a dot, or nothing without."""
    if not schema:
        return ""
    quoted = schema.replace('"', '""').replace("%", "%%")
    return f'"{quoted}".'
