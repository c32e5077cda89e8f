"""
The errors of the driver.

Error
├── JobNotFound         PGQ01
├── LeaseLost           PGQ02
├── WrongState          PGQ03
├── DuplicateJob        PGQ04
├── NotInstalled        42883, 42P01, 3F000
├── AlreadyInstalled
├── Outdated
├── NoUpgradePath
├── LockTimeout
├── JobsRemain
├── PayloadError
├── ArgumentsMismatch
└── TransactionEnded

KeyboardInterrupt
└── TimedOut

The SQLSTATE decides the class of an error that the server raises. A bad argument stays what psycopg makes of it, mostly
a psycopg.DataError with a hint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


class Error(Exception):
    """The base class. ``hint`` says what to do; ``sqlstate`` is the server's code, if it raised the error."""

    def __init__(self, message: str, *, hint: str | None = None, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.sqlstate = sqlstate


class JobNotFound(Error):
    """The job does not exist, or does not exist any longer."""


class LeaseLost(Error):
    """The token no longer holds the job: the lease ran out, or the job has ended. Roll back what was done for it."""


class WrongState(Error):
    """The state of the job does not allow the call."""


class DuplicateJob(Error):
    """A job with the same signature waits, and ``on_duplicate`` was ``"error"``."""


class NotInstalled(Error):
    """The search path finds no pgq in this database, or none that this role may use."""


class AlreadyInstalled(Error):
    """The schema has a pgq already, or the database has the PgQ of Skytools."""


class Outdated(Error):
    """The SQL in the database is older than this driver."""


class NoUpgradePath(Error):
    """No upgrade script leads from the version in the database to that of this driver."""


class LockTimeout(Error):
    """Other transactions kept the tables of pgq locked until the time for an upgrade or a removal was up."""


class JobsRemain(Error):
    """Jobs wait or run, so pgq is not removed."""


class PayloadError(Error):
    """PostgreSQL accepts the arguments of a job as JSON, but Python cannot decode them."""


class ArgumentsMismatch(Error):
    """The arguments of a job do not match the keywords of its handler."""


class TransactionEnded(Error):
    """A handler ended the transaction in which its job was to be completed."""


class TimedOut(KeyboardInterrupt):
    """
    A handler ran longer than its timeout.

    As it is a KeyboardInterrupt, ``except Exception`` in a handler does not catch it, and psycopg cancels the statement
    for which the handler waits.
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

# The server has no hint for an unknown function or schema.
NOT_INSTALLED_HINT = "Run pgq install, set the search path, or let the owner call pgq_grant for this role."


@contextmanager
def translated() -> Iterator[None]:
    """Turn the psycopg errors that a caller of pgq reacts to into the classes above, by SQLSTATE."""
    try:
        yield
    except psycopg.Error as error:
        known = BY_SQLSTATE.get(error.sqlstate or "")
        if known is None:
            raise
        message = error.diag.message_primary or str(error)
        hint = NOT_INSTALLED_HINT if known is NotInstalled else error.diag.message_hint
        raise known(message, hint=hint, sqlstate=error.sqlstate) from error
