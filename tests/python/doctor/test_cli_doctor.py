"""``pgq doctor``: its exit codes, what it prints, and its JSON."""

from __future__ import annotations

import json
from pathlib import Path

from psycopg.conninfo import make_conninfo
from support.database import As, Connection
from support.doctor import PAST
from support.pages import Page
from support.processes import invoke

from pgq import Queue, WorkerQueue, install
from pgq.doctor import CHECKS

PAGE = Page("docs/doctor.md")


def test_the_exit_code_tells_health(conn: Connection, queue: WorkerQueue, dsn: str, tmp_path: Path) -> None:
    """Warnings are healthy: the owner of this database is a superuser."""
    healthy = invoke("--dsn", dsn, "doctor")
    assert healthy.returncode == 0
    assert "warning: the owner of pgq" in healthy.stdout
    assert healthy.stdout.endswith("1 warning\n")
    queue.enqueue("k", queue="lost", ripe_at=PAST)
    sick = invoke("doctor", "--dsn", dsn)
    assert sick.returncode == 1
    assert sick.stdout.startswith('error: no worker serves queue "lost", in which 1 job is ripe\n')
    assert "\n  mend: pgq worker MODULE --queue lost\n  more: docs/doctor.md#no-worker\n" in sick.stdout
    assert sick.stdout.endswith("1 error, 1 warning\n")
    gone = invoke("--dsn", make_conninfo(dsn, host=str(tmp_path)), "doctor")
    assert (gone.returncode, gone.stdout) == (3, "")
    conn.execute("DROP SCHEMA public CASCADE")
    missing = invoke("--dsn", dsn, "doctor")
    assert missing.returncode == 1
    assert "hint: Run pgq install" in missing.stderr
    assert invoke("doctor", "--what").returncode == 2


def test_where_nothing_is_found(as_: As, conn: Connection, dsn: str) -> None:
    """It says so, as far as the role sees."""
    install(as_("owner"))
    done = invoke("--dsn", make_conninfo(dsn, user="owner"), "doctor")
    assert done.returncode == 0
    assert "not checked: " in done.stdout
    assert "to see it: GRANT pg_monitor TO owner;" in done.stdout
    assert done.stdout.endswith("nothing is wrong, as far as could be seen\n")
    conn.execute("GRANT pg_monitor TO owner")
    try:
        assert invoke("--dsn", make_conninfo(dsn, user="owner"), "doctor").stdout == "nothing is wrong\n"
    finally:
        conn.execute("REVOKE pg_monitor FROM owner")


def test_lines_fit_the_terminal(queue: WorkerQueue, dsn: str) -> None:
    """All but words that are longer."""
    queue.enqueue("k", queue="lost", ripe_at=PAST)
    lines = invoke("--dsn", dsn, "doctor").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) > 8


def test_the_json_has_a_stable_schema(queue: WorkerQueue, dsn: str) -> None:
    """Keys may be added; none of these goes away."""
    queue.enqueue("k", queue="lost", ripe_at=PAST)
    done = invoke("--dsn", dsn, "doctor", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    found = json.loads(done.stdout)
    assert set(found) == {"healthy", "findings", "unseen"}
    assert (found["healthy"], found["unseen"]) == (False, [])
    first, second = found["findings"]
    assert {key: type(value) for key, value in first.items()} == {
        "code": str, "severity": str, "title": str, "meaning": str, "remedy": str, "page": str, "details": dict
    }  # fmt: skip
    assert (first["code"], first["severity"], first["page"]) == ("no-worker", "error", "docs/doctor.md#no-worker")
    assert set(first["details"]) == {"queue", "ripe", "oldest_ripe_seconds", "similar_queue"}
    assert second["code"] == "owner-is-superuser"


def test_several_databases(conn: Connection, other: Connection, dsn: str, other_dsn: str, tmp_path: Path) -> None:
    """Each line and each finding names its database; the worst exit code is that of the command."""
    Queue(other).enqueue("k", queue="lost", ripe_at=PAST)
    done = invoke("doctor", "--dsn", dsn, "--dsn", other_dsn)
    assert done.returncode == 1
    assert f"{other.info.dbname}: error: no worker serves" in done.stdout
    assert f"\n{conn.info.dbname}: 1 warning\n" in done.stdout
    found = json.loads(invoke("doctor", "--dsn", dsn, "--dsn", other_dsn, "--json").stdout)
    assert {(one["database"], one["code"]) for one in found["findings"]} == {
        (conn.info.dbname, "owner-is-superuser"),
        (other.info.dbname, "owner-is-superuser"),
        (other.info.dbname, "no-worker"),
    }
    gone = make_conninfo(other_dsn, host=str(tmp_path))
    done = invoke("doctor", "--dsn", dsn, "--dsn", gone, "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["healthy"] is False
    assert done.stderr.startswith(f"pgq: {other.info.dbname}: cannot reach the database")


def test_the_page_has_a_heading_for_each_code() -> None:
    """And no other. Each section says what the cause is, what it means, and what helps."""
    headings = {line.removeprefix("### ") for line in PAGE.prose.splitlines() if line.startswith("### ")}
    assert headings == {check.code for check in CHECKS}
    for part in PAGE.prose.split("\n### ")[1:]:
        for word in ("**Cause.**", "**Meaning.**", "**Cure.**"):
            assert part.count(word) == 1, part.splitlines()[0]
