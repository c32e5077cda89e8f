"""
Whether the server refuses a connection for good: its role, its password, or its database.

The server writes its messages in its own language, so only the SQLSTATE decides. Of a failed connection libpq gives it
only in a message of the verbosity SQLSTATE, which psycopg cannot ask for.
"""

from __future__ import annotations

import ctypes
import re
import select
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg.pq import PollingStatus

from pgq.worker.server import Server

PQERRORS_SQLSTATE: Final = 3
# A line of a message of this verbosity, where it comes from the server: the severity, in the server's language, and the
# SQLSTATE of a password, of a role or its method, or of a database that is refused.
REFUSAL: Final = re.compile(rb".*\S:  (?:28P01|28000|3D000)")
# Seconds.
PROBE_WITHIN: Final = 5.0


class Refused(psycopg.OperationalError):
    """The server refuses the role, its password or the database, and does not stop doing so."""


class Refusal:
    """How long the server has refused a worker's connections without a pause."""

    def __init__(self, server: Server, clock: Callable[[], float]) -> None:
        self._server = server
        self._clock = clock
        self._since: float | None = None

    def seconds(self) -> float:
        """Try to connect once more after a failure; return for how long that has been refused, or -1 if it is not."""
        if not refuses(self._server):
            self._since = None
            return -1.0
        now = self._clock()
        self._since = now if self._since is None else self._since
        return now - self._since

    def end(self) -> None:
        """Forget the refusals: a connection works."""
        self._since = None


def refuses(server: Server) -> bool:
    """
    Try to connect, and return whether the server, or each of several hosts, refuses that.

    A password that the server asks for, and that is not given, counts too.
    """
    with server.restored_environment():
        pgconn = psycopg.pq.PGconn.connect_start(server.conninfo.encode())
        try:
            if not _show_sqlstate(pgconn) or _connect(pgconn) != PollingStatus.FAILED:
                return False
            lines = pgconn.error_message.splitlines()
            return pgconn.needs_password or (bool(lines) and all(REFUSAL.fullmatch(line) for line in lines))
        except (psycopg.Error, OSError, ValueError):
            return False
        finally:
            pgconn.finish()


def _connect(pgconn: Any) -> PollingStatus:
    """Go on with a connection until it works, has failed, or takes too long."""
    give_up_at = monotonic() + PROBE_WITHIN
    status = PollingStatus(pgconn.connect_poll())
    while status in (PollingStatus.READING, PollingStatus.WRITING) and monotonic() < give_up_at:
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN if status == PollingStatus.READING else select.POLLOUT)
        poll.poll(100)
        status = PollingStatus(pgconn.connect_poll())
    return status


def _show_sqlstate(pgconn: Any) -> bool:
    """Let messages of libpq consist of severity and SQLSTATE; return false where its function is not found."""
    module: Any = sys.modules[type(pgconn).__module__]
    try:
        # The library of psycopg's C module is linked to libpq; psycopg's Python module has loaded it.
        library = module.impl.pq if hasattr(module, "impl") else ctypes.CDLL(module.__file__)
        function = library.PQsetErrorVerbosity
    except (AttributeError, OSError):
        return False
    function(ctypes.c_void_p(pgconn.pgconn_ptr), PQERRORS_SQLSTATE)
    return True
