"""The log of the command ``pgq worker``: lines for people, or JSON objects for machines."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, ParamSpec, TextIO

P = ParamSpec("P")

TEXT: Final = "%(asctime)s %(levelname)-7s %(message)s"
# The attributes that every record has; all others are extras.
COMMON: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Logger(logging.Logger):
    """A logger that ``logging.config`` does not disable, as it does by default with those that it is not told of."""

    @property
    def disabled(self) -> bool:
        """Always false: a level, or a handler of the logger, still counts."""
        return False

    @disabled.setter
    def disabled(self, value: bool) -> None:
        return

    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:  # noqa: N802 - the name is Python's
        """Return a record, with the database of the calling thread as its extra ``database`` if there are several."""
        record = super().makeRecord(*args, **kwargs)
        if _thread.database is not None:
            record.database = _thread.database
        return record


class Thread(threading.local):
    """What the log knows of a thread."""

    database: str | None = None


_thread: Final = Thread()


def about(database: str | None) -> None:
    """Let the lines of this thread name a database."""
    _thread.database = database


def continued(function: Callable[P, None]) -> Callable[P, None]:
    """Return a function for another thread, whose lines name the same database as those of this one."""
    database = _thread.database

    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        about(database)
        function(*args, **kwargs)

    return run


logger: Final = logging.getLogger("pgq")
logger.__class__ = Logger


class TextFormatter(logging.Formatter):
    """A line for people; where a process serves several databases, the message begins with the name of one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is Python's
        """Return the line. The kinds in those of pgq are chosen by producers, and may have line ends in them."""
        if record.name == logger.name:
            record.message = "".join(one if one.isprintable() else " " for one in record.message)
        if (database := getattr(record, "database", None)) is not None:
            record.message = f"{database}: {record.message}"
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the extras of the record, and its traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in record.__dict__.items() if name not in COMMON},
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class LogHandler(logging.StreamHandler[TextIO]):
    """A handler that never raises: a log that cannot be written must not end the worker."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is Python's
        """Say what is wrong on ``sys.stderr``, as long as that is open."""
        with contextlib.suppress(Exception):
            super().handleError(record)


class RootLogHandler(LogHandler):
    """The handler of the root logger: for all lines but those of pgq."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Refuse what the logger of pgq writes itself."""
        return record.name != logger.name


class OwnLogHandler(LogHandler):
    """
    The handler of pgq's own lines.

    A job's handler, or a module, may replace the handlers of the root logger: those that it gives get the lines, and
    this one gets them where it gives none.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Refuse what a handler of the root logger takes."""
        return not any(
            record.levelno >= other.level and not isinstance(other, RootLogHandler | logging.NullHandler)
            for other in logging.root.handlers
        )


def standard_error() -> TextIO:
    """Return standard error, through a descriptor of its own: a job's handler may close ``sys.stderr``."""
    try:
        return open(os.dup(sys.stderr.fileno()), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    except (OSError, ValueError, AttributeError):
        return sys.stderr


def configure(level: str, form: str) -> None:
    """Log to standard error what has at least this level; the form is text or json."""
    stream = standard_error()
    own, root = OwnLogHandler(stream), RootLogHandler(stream)
    for handler in (own, root):
        handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(TEXT))
    for before in logger.handlers[:]:
        if isinstance(before, OwnLogHandler):
            logger.removeHandler(before)
    logger.addHandler(own)
    logger.setLevel(level.upper())
    logging.basicConfig(level=level.upper(), handlers=[root])
