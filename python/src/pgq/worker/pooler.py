"""
Notice a pooler in transaction mode before the worker leaves anything in a session that others use, too.

A direct connection has one process of the server for as long as it lives, and shares it with no other connection. So
has one through a pooler in session mode. In transaction mode a pooler gives each statement outside a transaction any
process that is free. So one connection with two processes, or two connections with one process, prove that mode,
however busy the pooler is.
"""

from __future__ import annotations

from contextlib import ExitStack, closing, suppress
from typing import Any, Final

import psycopg

from pgq.errors import TransactionPooler
from pgq.process.polling import readable
from pgq.worker.server import Server

# Processes of two servers may have the same number, but not since the same time.
PROCESS: Final = b"SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_postmaster_start_time()"
# An instance of a pooler knows only its own processes of the server: of three connections, two lead to the same
# instance where there are two instances.
CONNECTIONS: Final = 3
# The connections that are asked, in order. Twice in a row the same one: it has two processes where a pooler takes its
# processes in turn.
LOOKS: Final = (0, 1, 1, 0, 2, 2, 1, 0) * 3
# A pooler lets a connection wait while all of its processes are in use.
ANSWERED_WITHIN: Final = 1.0


def refuse_transaction_pooler(server: Server, name: str) -> None:
    """
    Raise TransactionPooler if connections lead through a pooler in transaction mode.

    When it connects, a client gets the number of the process that serves it. A pooler makes up a number, because its
    connections outlive the processes. Where the number is right, nothing more is done. Raises the error of the first
    connection; what goes wrong with the others proves nothing.
    """
    with ExitStack() as stack:
        conns = [stack.enter_context(closing(server.connect(name)))]
        row = conns[0].execute(PROCESS).fetchone()
        if row is None or row[0] == conns[0].info.backend_pid:
            return
        with suppress(psycopg.Error):
            while len(conns) < CONNECTIONS:
                conns.append(stack.enter_context(closing(server.connect(name))))
            seen: dict[bytes | None, int] = {}
            for look in LOOKS:
                process = _process(conns[look])
                if process is None:
                    return
                if seen.setdefault(process, look) != look or len(set(seen.values())) < len(seen):
                    raise TransactionPooler(
                        "the connection leads through a pooler in transaction mode, which shares the sessions of the "
                        "server",
                        hint="Give pgq worker the option --transaction-pooler, or Worker the argument "
                        "transaction_pooler=True; or connect to the server itself.",
                    )


def _process(conn: psycopg.Connection[Any]) -> bytes | None:
    """Return which process of the server has run a statement; None if the statement must wait or fails."""
    pgconn = conn.pgconn
    pgconn.send_query(PROCESS)
    pgconn.flush()
    while pgconn.is_busy():
        if not readable(ANSWERED_WITHIN, pgconn.socket):
            return None
        pgconn.consume_input()
    found = None
    while (result := pgconn.get_result()) is not None:
        if result.ntuples == 1:
            found = b"%s %s" % (result.get_value(0, 0), result.get_value(0, 1))
    return found
