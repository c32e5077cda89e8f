"""The doctor finds tables that are not vacuumed or not complete, and SQL of another version."""

from __future__ import annotations

import psycopg
import pytest
from support.database import Connection, flush, replace
from support.doctor import finding, findings, mend
from support.installed import released

from pgq import WorkerQueue
from pgq.doctor import examine
from pgq.doctor.shipped import functions, indexes, tables, views
from pgq.version import driver_version


@pytest.fixture
def done(conn: Connection, queue: WorkerQueue, snapshot: None) -> None:
    """A thousand jobs that are done, and a snapshot that keeps their rows."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(1000))
    while jobs := queue.claim(max_jobs=1000):
        queue.complete_many(jobs)
    flush(conn)


def test_dead_rows(conn: Connection, done: None) -> None:
    """They are counted with the live ones, and the last vacuum is named."""
    assert findings(conn, "dead-rows") == []
    found = {one.details["table"]: one for one in findings(conn, "dead-rows", dead_rows=500)}
    waiting = found["pgq_waiting"]
    assert waiting.details["dead_rows"] >= 1000
    assert "dead rows beside 0 live rows; the last vacuum ended" in waiting.title
    assert waiting.remedy.endswith("VACUUM (VERBOSE) public.pgq_waiting;")


def test_bloat(conn: Connection, done: None, queue: WorkerQueue) -> None:
    """A table counts that is much larger than its rows need."""
    assert findings(conn, "bloat") == []
    found = {one.details["table"] for one in findings(conn, "bloat", bloat_bytes=100_000)}
    assert "pgq_waiting" in found
    queue.enqueue_many({"kind": "k", "args": n} for n in range(1000))
    flush(conn)
    assert "pgq_waiting" not in {one.details["table"] for one in findings(conn, "bloat", bloat_bytes=100_000)}


def test_autovacuum_is_off_for_a_table(conn: Connection) -> None:
    """The remedy switches it on."""
    assert findings(conn, "autovacuum-off") == []
    conn.execute("ALTER TABLE pgq_ended SET (autovacuum_enabled = off)")
    found = finding(conn, "autovacuum-off")
    assert found.title == "autovacuum is off for pgq_ended"
    mend(conn, found)
    assert findings(conn, "autovacuum-off") == []


def test_nothing_is_counted_for_autovacuum(conn: Connection) -> None:
    """Without track_counts, autovacuum never finds anything to do."""
    conn.execute("SET track_counts = off")
    assert finding(conn, "autovacuum-off").title == "track_counts is off, so no table is vacuumed by itself"


def test_the_age_of_the_database(conn: Connection) -> None:
    """A threshold that is reached takes the place of a thousand million transactions."""
    assert findings(conn, "wraparound") == []
    found = finding(conn, "wraparound", wraparound=1)
    assert found.details["xids"] > 1


def test_an_index_that_is_missing(conn: Connection) -> None:
    """The remedy makes it again, without keeping others waiting."""
    conn.execute("DROP INDEX pgq_running_lease")
    conn.execute("ALTER TABLE pgq_saved DROP CONSTRAINT pgq_saved_pkey")
    found = {one.details["index"]: one for one in findings(conn, "missing-index")}
    assert set(found) == {"pgq_running_lease", "pgq_saved_pkey"}
    assert (
        "CREATE INDEX CONCURRENTLY pgq_running_lease ON pgq_running (lease_until);" in found["pgq_running_lease"].remedy
    )
    assert "CREATE UNIQUE INDEX CONCURRENTLY pgq_saved_pkey ON pgq_saved (id);" in found["pgq_saved_pkey"].remedy
    for one in found.values():
        mend(conn, one)
    assert findings(conn, "missing-index") == []


def test_an_index_that_is_invalid(conn: Connection, queue: WorkerQueue) -> None:
    """A build that has failed leaves one behind."""
    queue.enqueue_many({"kind": "k", "args": n} for n in range(2))
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute("CREATE UNIQUE INDEX CONCURRENTLY mine ON pgq_waiting (kind)")
    found = finding(conn, "invalid-index")
    assert (found.severity, found.details["index"]) == ("warning", "mine")
    mend(conn, found)
    assert findings(conn, "invalid-index") == []

    queue.claim()
    conn.execute("DROP INDEX pgq_running_lease")
    conn.execute(
        "CREATE FUNCTION fail(timestamptz) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN 1 / 0; END$$"
    )
    with pytest.raises(psycopg.errors.DivisionByZero):
        conn.execute("CREATE INDEX CONCURRENTLY pgq_running_lease ON pgq_running (fail(lease_until))")
    found = finding(conn, "invalid-index")
    assert (found.severity, found.details["index"]) == ("error", "pgq_running_lease")


def test_storage_parameters_that_were_changed(conn: Connection) -> None:
    """The remedy restores them."""
    assert findings(conn, "changed-settings") == []
    conn.execute(
        "ALTER TABLE pgq_waiting SET (autovacuum_vacuum_scale_factor = 0.5, autovacuum_vacuum_cost_limit = 10)"
    )
    conn.execute("ALTER TABLE pgq_waiting RESET (autovacuum_vacuum_threshold)")
    found = finding(conn, "changed-settings")
    assert found.severity == "note"
    assert "autovacuum_vacuum_scale_factor is 0.5 instead of 0.01" in found.title
    assert "autovacuum_vacuum_threshold is not set instead of 1000" in found.title
    mend(conn, found)
    assert findings(conn, "changed-settings") == []


def test_what_is_shipped_is_what_a_new_installation_has(conn: Connection) -> None:
    """All tables, indexes, views and functions are known."""

    def names(query: str) -> set[str]:
        return {name for (name,) in conn.execute(query.encode())}

    in_schema = "FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname ~ '^_?pgq_' AND relkind"
    assert set(tables()) == names(f"SELECT relname {in_schema} = 'r'")
    assert set(views()) == names(f"SELECT relname {in_schema} = 'v'")
    assert set(indexes()) == names(f"SELECT relname {in_schema} = 'i'")
    assert set(functions()) == names(
        "SELECT DISTINCT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname ~ '^_?pgq_'"
    )
    assert sum(map(len, tables().values())) > 20


def test_a_collation_whose_order_has_changed(conn: Connection) -> None:
    """No other version of the C library or ICU is at hand, so the version that the database has noted is changed."""
    assert findings(conn, "collation-version") == []
    row = conn.execute(
        "SELECT oid::regcollation::text FROM pg_collation WHERE pg_collation_actual_version(oid) IS NOT NULL LIMIT 1"
    ).fetchone()
    if row is None:
        pytest.skip("this server has no collation with a version")
    conn.execute(f"CREATE TABLE customer (name text COLLATE {row[0]})".encode())
    conn.execute("UPDATE pg_collation SET collversion = 'before' WHERE oid = %s::regcollation", row)
    try:
        found = finding(conn, "collation-version")
        assert found.details["then"] == "before"
        assert found.details["refresh"] in found.remedy
        conn.execute(found.details["refresh"].encode())
        assert findings(conn, "collation-version") == []
    finally:
        conn.execute("DROP TABLE customer")


def test_sql_that_is_older_than_the_program(conn: Connection) -> None:
    """The other findings that need its tables are not looked for."""
    conn.execute("CREATE SCHEMA old")
    conn.execute("SET search_path = old")
    conn.execute(released("0.2.0"))
    found = examine(conn, "old")
    (one,) = [one for one in found.findings if one.code == "versions"]
    assert (one.severity, one.remedy) == ("error", "pgq upgrade")
    assert one.details["sql"] == "0.2.0"
    assert {unseen.reason for unseen in found.unseen} == {"the SQL in the database is older than this program"}
    assert not found.is_healthy


def test_sql_that_is_newer_than_the_program(conn: Connection) -> None:
    """A driver works on the next minor release, and not beyond."""
    assert findings(conn, "versions") == []
    major, minor, _ = map(int, driver_version().split("."))
    replace(conn, "pgq_version", driver_version(), f"{major}.{minor + 1}.0")
    assert findings(conn, "versions") == []
    replace(conn, "pgq_version", f"{major}.{minor + 1}.0", f"{major}.{minor + 2}.0")
    assert finding(conn, "versions").severity == "warning"
