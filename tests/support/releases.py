"""The releases in the list of changes, and queries that are the same in all of them."""

from __future__ import annotations

import re
from typing import Any

from support.database import Connection
from support.paths import ROOT

CHANGES = (ROOT / "CHANGELOG.md").read_text()
CHANGELOG = re.findall(r"^## (\d+\.\d+\.\d+), (\S.*)$", CHANGES, re.MULTILINE)


def is_clean_break(version: str, changes: str = CHANGES) -> bool:
    """Return whether the entry of a version begins with "A clean break: ", so that older callers need not go on."""
    return re.search(rf"^## {re.escape(version)}, .*\n\nA clean break: ", changes, re.MULTILINE) is not None


def jobs_of_any(conn: Connection) -> list[tuple[Any, ...]]:
    """Return the id, state and attempt of all jobs, whatever the view of them is called."""
    return conn.execute(
        "SELECT id, 'waiting', attempt FROM pgq_waiting UNION ALL SELECT id, 'running', attempt FROM pgq_running "
        "UNION ALL SELECT id, outcome, attempt FROM pgq_ended ORDER BY id"
    ).fetchall()
