"""The databases that the pages show, and how a request reads from one of them within two seconds."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from pgq.convert import qualifier
from pgq.errors import translated
from pgq.queue import Queue
from pgq.version import check_version

# Seconds that the statements of one request may take, together, before the next one is refused.
PATIENCE: Final = 2.0
# What a connection gets where the DSN does not say otherwise: a host that does not reply must not keep a request.
NETWORK: Final = {"connect_timeout": "3", "tcp_user_timeout": "5000"}
# Connections that are kept for the next request; more than that are opened and closed.
KEPT: Final = 4


class TooSlow(Exception):
    """The statements of a request have taken longer than two seconds together."""


class Database:
    """One database, with the connections that wait for the next request."""

    def __init__(self, dsn: str, schema: str | None, label: str) -> None:
        self.label = label
        self.schema = schema
        self.prefix = qualifier(schema)
        given = conninfo_to_dict(dsn)
        self._dsn = make_conninfo(dsn, **{name: value for name, value in NETWORK.items() if name not in given})
        self._kept: list[psycopg.Connection[Any]] = []
        self._lock = threading.Lock()

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """Lend a connection in autocommit mode, to SQL that is new enough. Raises Outdated and psycopg.Error."""
        conn = self._take() or self.connect()
        try:
            yield conn
        finally:
            self._give_back(conn)

    def connect(self) -> psycopg.Connection[Any]:
        """Open a connection, which the caller closes. Raises Outdated and psycopg.Error."""
        # No prepared statements: a pooler in transaction mode would run them in sessions that have not prepared them.
        conn = psycopg.connect(self._dsn, autocommit=True, application_name="pgq web", prepare_threshold=None)
        try:
            check_version(Queue(conn, schema=self.schema))
        except BaseException:
            conn.close()
            raise
        return conn

    def _take(self) -> psycopg.Connection[Any] | None:
        while True:
            with self._lock:
                conn = self._kept.pop() if self._kept else None
            if conn is None:
                return None
            try:
                # The server may have ended the session while nobody looked.
                conn.execute("SELECT 1")
            except psycopg.Error:
                conn.close()
            else:
                return conn

    def _give_back(self, conn: psycopg.Connection[Any]) -> None:
        idle = not conn.closed and conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        with self._lock:
            if idle and len(self._kept) < KEPT:
                self._kept.append(conn)
                return
        conn.close()


class Reader:
    """What a page reads from a database: in one transaction that writes nothing, with a time limit."""

    def __init__(self, database: Database, conn: psycopg.Connection[Any]) -> None:
        self.database = database
        self.conn = conn
        self._begun_at = monotonic()

    def rows(self, query: str, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return the rows of a query, in which ``{p}`` is the schema. Raises TooSlow, pgq.Error and psycopg.Error."""
        if monotonic() > self._begun_at + PATIENCE:
            raise TooSlow
        sql = query.replace("{p}", self.database.prefix)
        with translated(self.conn, sql, "reader"):
            # Binary, because the text form of times and intervals depends on DateStyle and IntervalStyle.
            cursor = self.conn.cursor(binary=True, row_factory=dict_row)
            return cursor.execute(sql.encode(), params or {}).fetchall()

    def row(self, query: str, params: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the only row, or None."""
        rows = self.rows(query, params)
        return rows[0] if rows else None

    def may_read(self, view: str, column: str) -> bool:
        """Return whether the role has this column, which a reader may not have."""
        row = self.row(
            "SELECT has_column_privilege(%(view)s, %(column)s, 'SELECT') AS may",
            {"view": self.database.prefix.replace("%%", "%") + view, "column": column},
        )
        return bool(row and row["may"])


@contextmanager
def reading(database: Database) -> Iterator[Reader]:
    """Read from a database in a transaction that writes nothing, and whose statements end after two seconds."""
    with database.connection() as conn, conn.transaction():
        conn.execute(f"SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = {round(PATIENCE * 1000)}")
        yield Reader(database, conn)


def databases(dsns: Sequence[str], schema: str | None) -> list[Database]:
    """Return the databases, each with a label that no other has and that says nothing secret."""
    labels = [_label(dsn) for dsn in dsns]
    counts = Counter(labels)
    return [
        Database(dsn, schema, label if counts[label] == 1 else f"{label} ({n})")
        for n, (dsn, label) in enumerate(zip(dsns, labels, strict=True), 1)
    ]


def _label(dsn: str) -> str:
    given = conninfo_to_dict(dsn)
    name, host, port = (given.get(part) for part in ("dbname", "host", "port"))
    return (
        f"{name or given.get('user') or given.get('service') or 'default'}"
        + (f" on {host}" if host and not str(host).startswith("/") else "")
        + (f":{port}" if port and port != "5432" else "")
    )
