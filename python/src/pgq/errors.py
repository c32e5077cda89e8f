"""
The errors of the driver.

Error
├── JobNotFound       PGQ01
├── LeaseLost         PGQ02
├── WrongState        PGQ03
├── DuplicateJob      PGQ04
├── NotInstalled      42883, 42P01, 3F000
├── Outdated
├── PayloadError
├── ArgumentsMismatch
└── TransactionEnded

TimedOut, which interrupts a handler, is no Error but a KeyboardInterrupt.

Bad arguments stay what psycopg makes of them, mostly a psycopg.DataError with a hint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


class Error(Exception):
    """What pgq refuses; ``hint`` says what to do about it, ``sqlstate`` is the server's code, if it was the server."""

    def __init__(self, message: str, *, hint: str | None = None, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.sqlstate = sqlstate


class JobNotFound(Error):
    """There is no job with this id (any more)."""


class LeaseLost(Error):
    """The job is not held under this token: the lease ran out or the job is over. Its writes must not count."""


class WrongState(Error):
    """The job is in a state that does not allow this."""


class DuplicateJob(Error):
    """A job with the same signature is waiting, and ``on_duplicate`` was ``"error"``."""


class NotInstalled(Error):
    """This database has no pgq on the search path, or none that this role may use."""


class Outdated(Error):
    """The SQL in the database is older than this driver."""


class PayloadError(Error):
    """The arguments of a job are valid JSON for PostgreSQL but cannot be decoded by Python."""


class ArgumentsMismatch(Error):
    """The arguments of a job are not those that its handler takes by keyword."""


class TransactionEnded(Error):
    """A handler ended the transaction that it shares with the completion of its job."""


class TimedOut(KeyboardInterrupt):
    """
    A handler has taken longer than its timeout.

    A KeyboardInterrupt, so that a handler that catches every Exception is interrupted all the same, and that psycopg
    cancels the statement it is waiting for.
    """

    def __str__(self) -> str:
        return "the handler took longer than its timeout"


BY_SQLSTATE: dict[str, type[Error]] = {
    "PGQ01": JobNotFound,
    "PGQ02": LeaseLost,
    "PGQ03": WrongState,
    "PGQ04": DuplicateJob,
    "42883": NotInstalled,
    "42P01": NotInstalled,
    "3F000": NotInstalled,
}


NOT_INSTALLED = "Run pgq install, set the search path, or let the owner call pgq_grant for this role."


@contextmanager
def translated() -> Iterator[None]:
    """Raise the errors that a caller of pgq reacts to as classes of their own, by SQLSTATE."""
    try:
        yield
    except psycopg.Error as error:
        known = BY_SQLSTATE.get(error.sqlstate or "")
        if known is None:
            raise
        message = error.diag.message_primary or str(error)
        hint = NOT_INSTALLED if known is NotInstalled else error.diag.message_hint
        raise known(message, hint=hint, sqlstate=error.sqlstate) from error
