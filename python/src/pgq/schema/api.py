"""Upgrade the SQL from a program; ``pgq`` exports it as ``pgq.upgrade``."""

from __future__ import annotations

from typing import Any

import psycopg

from pgq.schema.upgrade import upgrade as upgrade_stepwise


def upgrade(conn: psycopg.Connection[Any], *, schema: str | None = None) -> list[str]:
    """
    Upgrade the pgq in ``schema``, or the one that the search path finds, to the version of this driver.

    Return the versions that were reached, in their order; the list is empty when the SQL is up to date. Each step is a
    transaction of its own, so the steps before one that fails remain. The changelog says for which releases workers and
    producers must be stopped. The connection must be in autocommit mode. Raises NotInstalled, NoUpgradePath and
    LockTimeout.
    """
    return list(upgrade_stepwise(conn, schema=schema))
