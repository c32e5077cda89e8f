"""What the doctor finds in the database of a test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pgq.doctor import CHECKS, Finding, Thresholds, Unseen, examine
from support.database import Connection

NOW: Final = timedelta(0)
PAST: Final = datetime(2020, 1, 1, tzinfo=UTC)
CODES: Final = [check.code for check in CHECKS]


def look(conn: Connection, code: str, **thresholds: Any) -> tuple[list[Finding], list[Unseen]]:
    """Look for one kind of finding; return what was found, and what could not be seen."""
    assert code in CODES
    found = examine(conn, thresholds=Thresholds(**thresholds), checks=[check for check in CHECKS if check.code == code])
    for finding in found.findings:
        assert finding.code == code
        assert finding.meaning.endswith((".", "?")) or "Its last statement: " in finding.meaning
        assert finding.title[-1] != "."
        assert finding.remedy
    return list(found.findings), list(found.unseen)


def findings(conn: Connection, code: str, **thresholds: Any) -> list[Finding]:
    """Return the findings of one kind, which can be looked for."""
    found, unseen = look(conn, code, **thresholds)
    assert unseen == []
    return found


def finding(conn: Connection, code: str, **thresholds: Any) -> Finding:
    """Return the only finding of a kind."""
    (found,) = findings(conn, code, **thresholds)
    return found


def statements(remedy: str) -> list[str]:
    """Return the SQL of a remedy that is nothing but SQL."""
    return [f"{statement};" for statement in remedy.split(";") if statement.strip()]


def mend(conn: Connection, found: Finding) -> None:
    """Run the SQL of a remedy that is nothing but SQL."""
    for statement in statements(found.remedy):
        conn.execute(statement.encode())
