"""
The errors of the driver.

Error
├── JobNotFound         PGQ01
├── LeaseLost           PGQ02
├── WrongState          PGQ03
├── DuplicateJob        PGQ04
├── JobFailed
├── NotEnded
├── NotInstalled        42883, 42P01, 3F000
├── AlreadyInstalled
├── Outdated
├── NoUpgradePath
├── LockTimeout
├── JobsRemain
├── TransactionPooler
├── PayloadError
├── ArgumentsMismatch
└── TransactionEnded

KeyboardInterrupt
├── TimedOut
└── Cancelled

The SQLSTATE decides the class of an error that the server raises. A bad argument stays what psycopg makes of it, mostly
a psycopg.DataError with a hint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import psycopg


class Error(Exception):
    """The base class. ``hint`` says what to do; ``sqlstate`` is the server's code, if it raised the error."""

    def __init__(self, message: str, *, hint: str | None = None, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.sqlstate = sqlstate


class JobNotFound(Error):
    """There is no such job, or none any longer, or none in a queue that the role may use."""


class LeaseLost(Error):
    """The token no longer holds the job: the lease ran out, or the job has ended. Roll back what was done for it."""


class WrongState(Error):
    """The state of the job does not allow the call."""


class DuplicateJob(Error):
    """A job with the same signature waits, or its window is open, and ``on_duplicate`` was ``"error"``."""


class JobFailed(Error):
    """The job that was waited for is dead or cancelled. ``error`` is the newest of its errors; None: it has none."""

    def __init__(self, message: str, *, state: str, error: str | None) -> None:
        super().__init__(message)
        self.state = state
        self.error = error

    def __reduce__(self) -> tuple[Callable[..., JobFailed], tuple[Any, ...], dict[str, Any]]:
        # A process pool pickles what its workers raise. By default __init__(*args) would rebuild it, and fail here.
        return partial(type(self), state=self.state, error=self.error), self.args, self.__dict__


class NotEnded(Error):
    """The job that was waited for has not ended in time."""


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


class TransactionPooler(Error):
    """The connections of a worker without ``transaction_pooler`` lead through a pooler in transaction mode."""


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


class Cancelled(KeyboardInterrupt):
    """
    An operator has asked to cancel the job while its handler runs.

    It is raised in the handler as TimedOut is, and for the same reasons a KeyboardInterrupt.
    """

    def __str__(self) -> str:
        return "an operator has cancelled the job"


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


# A pooler in transaction mode runs the statements of one client in the sessions of others.
NOT_PREPARED_HERE: Final = {"42P05", "26000"}
POOLER_HINT: Final = (
    "Behind a pooler in transaction mode set prepare_threshold of the connection to None, and give a worker the option "
    "--transaction-pooler."
)

# Which privilege lets a role call a function or read a view. All other calls are those of workers.
PRIVILEGES: Final = {
    **dict.fromkeys(("pgq_enqueue", "pgq_enqueue_many", "pgq_result", "pgq_await"), "producer"),
    **dict.fromkeys(("pgq_signal", "pgq_signal_key"), "producer"),
    **dict.fromkeys(("pgq_enqueue_batch", "pgq_batch_progress"), "producer"),
    **dict.fromkeys(("pgq_cancel", "pgq_retry", "pgq_update", "pgq_purge", "pgq_purge_jobs"), "admin"),
    **dict.fromkeys(("pgq_configure", "pgq_pause", "pgq_resume"), "admin"),
    **dict.fromkeys(("pgq_schedule", "pgq_unschedule", "pgq_pause_schedule"), "admin"),
    **dict.fromkeys(("pgq_resume_schedule", "pgq_run_schedule"), "admin"),
    **dict.fromkeys(("pgq_jobs", "pgq_stats", "pgq_counters", "pgq_workers"), "reader"),
    **dict.fromkeys(("pgq_queues", "pgq_schedules", "pgq_batches", "pgq_needs", "pgq_find_jobs", "pgq_now"), "reader"),
    **dict.fromkeys(("pgq_overview_kinds", "pgq_overview_counters", "pgq_overview_ids"), "reader"),
    **dict.fromkeys(("pgq_overview_waits", "pgq_overview_deaths", "pgq_overview_queues"), "reader"),
    **dict.fromkeys(("pgq_grant", "pgq_revoke"), "owner"),
    "pgq_version": "any",
}
# Not a quoted name, which is that of the schema.
CALLED: Final = re.compile(r"\bpgq_\w+\b(?!\")")


def permission_hint(privilege: str, role: str) -> str:
    """Return what a role can do that lacks a privilege: one of those of pgq_grant, ``any`` of them, or ``owner``."""
    if privilege == "owner":
        return "Connect as the owner of pgq."
    name = role.replace("'", "''")
    if privilege == "any":
        return f"Ask the owner of pgq to call pgq_grant for '{name}'."
    return f"Ask the owner of pgq to run SELECT pgq_grant('{name}', '{privilege}')."


@contextmanager
def translated(conn: psycopg.BaseConnection[Any], query: str, privilege: str | None = None) -> Iterator[None]:
    """
    Turn the psycopg errors that a caller of pgq reacts to into the classes above, by SQLSTATE.

    Where PostgreSQL has no hint, a note of the error says what to do. For a missing privilege, it names ``privilege``,
    or else that of the first function or view in the query.
    """
    try:
        yield
    except psycopg.Error as error:
        known = BY_SQLSTATE.get(error.sqlstate or "")
        if known is None:
            if isinstance(error, psycopg.errors.InsufficientPrivilege) and not error.diag.message_hint:
                called = CALLED.search(query)
                privilege = privilege or PRIVILEGES.get(called.group() if called else "", "worker")
                error.add_note(f"hint: {permission_hint(privilege, conn.info.user)}")
            elif error.sqlstate in NOT_PREPARED_HERE:
                error.add_note(f"hint: {POOLER_HINT}")
            raise
        message = error.diag.message_primary or str(error)
        hint = NOT_INSTALLED_HINT if known is NotInstalled else error.diag.message_hint
        raise known(message, hint=hint, sqlstate=error.sqlstate) from error
