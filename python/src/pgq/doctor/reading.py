"""How the doctor reads: in short transactions that change nothing, each query within a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Flag, auto
from functools import cached_property
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from pgq.convert import qualifier
from pgq.doctor.finding import Finding, Unseen
from pgq.doctor.thresholds import Thresholds
from pgq.errors import NOT_INSTALLED_HINT, NotInstalled, translated

# Seconds that a query may take, and all of them together.
QUERY_WITHIN: Final = 3.0
EXAMINE_WITHIN: Final = 30.0
# A transaction that may wait for locks would keep others waiting behind it.
SETTINGS: Final = """
    SELECT set_config('transaction_read_only', 'on', true),
           set_config('statement_timeout', %(timeout)s, true),
           set_config('lock_timeout', '100ms', true),
           set_config('jit', 'off', true),
           set_config('search_path', coalesce(%(path)s, current_setting('search_path')), true)
"""
PLACE: Final = """
    SELECT n.nspname::text AS name, quote_ident(n.nspname) AS schema, c.relowner::bigint AS owner,
           pg_get_userbyid(c.relowner)::text AS owner_name, current_user::text AS role,
           quote_ident(current_user) AS quoted_role,
           pg_has_role(c.relowner, 'USAGE') AS is_owner,
           pg_has_role('pg_read_all_stats', 'USAGE') AS monitors,
           pg_is_in_recovery() AS is_standby,
           current_setting('server_version_num')::integer AS server_version
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass(%(table)s::text)
"""


class Needs(Flag):
    """What a role must have for a check: it is told what it lacks, and the check is left out."""

    NOTHING = 0
    # The functions and views of pgq for readers.
    READER = auto()
    # The tables of pgq.
    OWNER = auto()
    # The sessions of other roles.
    MONITOR = auto()
    # A server that is no standby: what it reads, a standby lacks.
    PRIMARY = auto()


Look = Callable[["Reading"], Iterable[Finding | Unseen]]


@dataclass(frozen=True)
class Check:
    """Looks for one kind of finding."""

    look: Look
    needs: Needs

    @property
    def code(self) -> str:
        """The code of its findings."""
        return self.look.__name__.replace("_", "-")


def check(needs: Needs = Needs.NOTHING) -> Callable[[Look], Check]:
    """Return a decorator that makes a check of a function; its name is the code of the findings, with underscores."""
    return lambda look: Check(look, needs)


class OutOfTime(Exception):
    """All queries together have taken too long."""


class Reading:
    """
    A database that is examined.

    Queries name the objects of pgq without a schema. What several checks need is read once.
    """

    def __init__(self, conn: psycopg.Connection[Any], schema: str | None, thresholds: Thresholds) -> None:
        self.conn = conn
        self.thresholds = thresholds
        self._until = monotonic() + EXAMINE_WITHIN
        self._path: str | None = None
        with translated(conn, "pgq_version"):
            found = self.rows(PLACE, table=f"{qualifier(schema)}pgq_waiting".replace("%%", "%"))
            if not found:
                raise NotInstalled("there is no pgq", hint=NOT_INSTALLED_HINT)
            self.place = found[0]
            self._path = f"{self.schema}, pg_temp"
            self.version = str(self.value("SELECT pgq_version()"))

    def rows(self, query: str, **parameters: Any) -> list[dict[str, Any]]:
        """
        Return what a query returns, in a transaction of its own that is rolled back.

        Raises OutOfTime, and psycopg.errors.QueryCanceled if the query takes too long.
        """
        left = self._until - monotonic()
        if left <= 0:
            raise OutOfTime
        timeout = f"{min(QUERY_WITHIN, left) * 1000:.0f}ms"
        # Binary, because the text form of times and intervals depends on DateStyle and IntervalStyle.
        with (
            self.conn.transaction(force_rollback=True),
            psycopg.Cursor[dict[str, Any]](self.conn, row_factory=dict_row) as cursor,
        ):
            cursor.execute(SETTINGS, {"timeout": timeout, "path": self._path}, prepare=False)
            cursor.execute(query, parameters or None, binary=True, prepare=False)
            return cursor.fetchall()

    def value(self, query: str, **parameters: Any) -> Any:
        """Return the first column of the first row; None if there is no row."""
        rows = self.rows(query, **parameters)
        return next(iter(rows[0].values())) if rows else None

    @property
    def schema(self) -> str:
        """The schema of pgq, as an identifier of SQL."""
        return str(self.place["schema"])

    @property
    def has(self) -> Needs:
        """What the role has."""
        given = Needs.READER if self._may_read else Needs.NOTHING
        given |= Needs.OWNER if self.place["is_owner"] else Needs.NOTHING
        given |= Needs.MONITOR if self.place["monitors"] else Needs.NOTHING
        return given | (Needs.NOTHING if self.place["is_standby"] else Needs.PRIMARY)

    @cached_property
    def _may_read(self) -> bool:
        """Whether the role is a reader, an admin or the owner."""
        return bool(self.value("SELECT has_table_privilege(to_regclass('pgq_workers'), 'SELECT')"))

    @cached_property
    def now(self) -> datetime:
        """The time of pgq."""
        now = self.value("SELECT pgq_now()")
        assert isinstance(now, datetime)
        return now

    @cached_property
    def kinds(self) -> list[dict[str, Any]]:
        """The numbers of jobs by queue and kind, estimated where there are many."""
        return self.rows("SELECT * FROM pgq_overview_kinds() LIMIT 10000")

    @cached_property
    def queues(self) -> list[dict[str, Any]]:
        """The queues that have settings or are paused."""
        return self.rows("SELECT * FROM pgq_overview_queues() LIMIT 10000")

    @cached_property
    def workers(self) -> list[dict[str, Any]]:
        """The workers that are registered or hold jobs."""
        return self.rows("SELECT * FROM pgq_workers LIMIT 10000")

    @cached_property
    def dead_rows(self) -> int:
        """The number of dead rows in the tables of pgq, as the statistics have it."""
        return int(
            self.value(
                "SELECT coalesce(sum(s.n_dead_tup), 0)::bigint FROM pg_stat_all_tables AS s "
                "JOIN pg_class AS c ON c.oid = s.relid WHERE c.relnamespace = to_regnamespace(%(schema)s) "
                "AND s.relname ~ '^pgq_'",
                schema=self.schema,
            )
        )
