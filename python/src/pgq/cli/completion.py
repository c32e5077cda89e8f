"""What a shell completes: names of queues and kinds, from the database if it replies quickly, or else nothing."""

from __future__ import annotations

from typing import Final

import click
import psycopg
from psycopg.conninfo import make_conninfo

from pgq.convert import qualifier

# Seconds to connect, and for the query: someone waits for the shell.
CONNECT_WITHIN: Final = 2
REPLY_WITHIN: Final = "1s"
MOST: Final = 200
QUEUES: Final = """
    SELECT DISTINCT n.name
    FROM (SELECT k.queue AS name FROM {0}pgq_overview_kinds() AS k
          UNION ALL SELECT q.queue FROM {0}pgq_overview_queues() AS q
          UNION ALL SELECT unnest(w.queues) FROM {0}pgq_workers AS w) AS n
    WHERE starts_with(n.name, %s) ORDER BY n.name LIMIT %s
"""
KINDS: Final = """
    SELECT DISTINCT n.name
    FROM (SELECT k.kind AS name FROM {0}pgq_overview_kinds() AS k
          UNION ALL SELECT unnest(w.handles) FROM {0}pgq_workers AS w) AS n
    WHERE starts_with(n.name, %s) ORDER BY n.name LIMIT %s
"""


def names(ctx: click.Context, query: str, begin: str) -> list[str]:
    """Return the names that a query finds in the databases of the command, without one that is slow or refuses."""
    dsns, schema = ctx.meta.get("pgq.dsns"), ctx.meta.get("pgq.schema")
    root = ctx.find_root().params
    found: set[str] = set()
    for dsn in dsns or root.get("dsns") or ("",):
        try:
            conninfo = make_conninfo(dsn, connect_timeout=CONNECT_WITHIN)
            with psycopg.connect(conninfo, application_name="pgq") as conn:
                conn.execute(f"SET LOCAL statement_timeout = '{REPLY_WITHIN}'".encode())
                text = query.format(qualifier(schema or root.get("schema_")))
                found.update(row[0] for row in conn.execute(text.encode(), [begin, MOST]))
        except psycopg.Error:
            continue
    return sorted(found)


def complete_queues(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the queues that begin with what is typed."""
    return names(ctx, QUEUES, incomplete)


def complete_kinds(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the kinds that begin with what is typed."""
    return names(ctx, KINDS, incomplete)
