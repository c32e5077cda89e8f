"""Errors of a database that time or another connection may mend."""

from __future__ import annotations

from typing import Final

import psycopg

# A standby raises 0A000 when a claim reads an unlogged table.
READ_ONLY: Final = (psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.FeatureNotSupported)
# The server is gone, out of space, or read-only after a failover.
UNAVAILABLE: Final = (psycopg.OperationalError, *READ_ONLY)


def condition(error: Exception) -> str:
    """Return in words what such an error says of the database."""
    return "the database is read-only" if isinstance(error, READ_ONLY) else "the database is not available"
