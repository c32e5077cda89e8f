"""An examination as a whole: it finds nothing where nothing is wrong, says what it cannot see, and is brief."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from support.database import As, Connect, Connection, one
from support.doctor import CODES, PAST
from support.threads import Thread, eventually

import pgq.doctor.reading
from pgq import Handlers, NotInstalled, Queue, Worker, install
from pgq.doctor import CHECKS, Check, Finding, Unseen, examine
from pgq.doctor.reading import Needs, Reading


@pytest.fixture
def owner(conn: Connection, as_: As) -> Iterator[Connection]:
    """A session of the owner of pgq, an ordinary role that sees all sessions."""
    session = as_("owner")
    install(session)
    conn.execute("GRANT pg_monitor TO owner")
    yield session
    conn.execute("REVOKE pg_monitor FROM owner")


def checks(look: object, needs: Needs = Needs.NOTHING) -> list[Check]:
    """Return a check that looks like this."""
    return [Check(look, needs)]  # type: ignore[arg-type]


def test_where_nothing_is_wrong_nothing_is_found(owner: Connection, dsn: str, handlers: Handlers) -> None:
    """A worker is present, and has run jobs. Nothing is left unseen."""
    done: list[int] = []
    handlers.handler("k")(lambda job: done.append(job.id))
    Queue(owner).enqueue_many({"kind": "k", "args": n} for n in range(20))
    Queue(owner).enqueue("k", "later", delay="1 hour")
    worker = Worker(make_conninfo(dsn, user="owner"), handlers)
    try:
        thread = Thread(worker.run)
        eventually(lambda: len(done) == 20)
        found = examine(owner)
        assert (found.findings, found.unseen) == ((), ())
        assert found.is_healthy
    finally:
        worker.stop()
    thread.result()
    assert examine(owner).findings == ()


def test_the_codes_are_different() -> None:
    assert len(set(CODES)) == len(CODES) > 40


@pytest.mark.parametrize("autocommit", [True, False])
def test_an_examination_leaves_nothing_behind(conn: Connection, connect: Connect, autocommit: bool) -> None:
    """No transaction, no lock, no setting."""
    examined = connect(autocommit=autocommit)
    examine(examined)
    assert examined.info.transaction_status == TransactionStatus.IDLE
    pid = examined.info.backend_pid
    assert one(conn, "SELECT count(*) FROM pg_locks WHERE pid = %s", pid) == 0
    assert conn.execute("SELECT state, backend_xmin FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() == (
        "idle",
        None,
    )
    for setting, value in (
        ("search_path", '"$user", public'),
        ("statement_timeout", "20s"),
        ("jit", one(conn, "SHOW jit")),
    ):
        assert one(examined, f"SHOW {setting}") == value


def test_in_a_transaction_of_the_caller_it_ends_nothing(conn: Connection, connect: Connect) -> None:
    """The caller may write afterwards."""
    examined = connect(autocommit=False)
    Queue(examined).enqueue("k")
    examine(examined, checks=CHECKS)
    assert examined.info.transaction_status == TransactionStatus.INTRANS
    Queue(examined).enqueue("l")
    assert one(examined, "SHOW search_path") == '"$user", public'
    examined.commit()
    assert one(conn, "SELECT count(*) FROM pgq_waiting") == 2


def test_it_changes_nothing(conn: Connection) -> None:
    """Each query is in a transaction that is read-only."""

    def write(reading: Reading) -> Iterable[Finding]:
        reading.rows("CREATE TABLE planted ()")
        return []

    (unseen,) = examine(conn, checks=checks(write)).unseen
    assert unseen == Unseen("write", "cannot execute CREATE TABLE in a read-only transaction")


def test_a_check_that_takes_too_long_is_left_out(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others follow."""
    monkeypatch.setattr(pgq.doctor.reading, "QUERY_WITHIN", 0.05)

    def sleep(reading: Reading) -> Iterable[Finding]:
        reading.rows("SELECT pg_sleep(60)")
        return []

    def follow(reading: Reading) -> Iterable[Finding]:
        yield Finding("follow", "note", f"{reading.value('SELECT 1')}", "", "")

    found = examine(conn, checks=[*checks(sleep), *checks(follow)])
    assert [one.title for one in found.findings] == ["1"]
    assert [one.reason for one in found.unseen] == ["the query took longer than 3 seconds"]


def test_a_check_that_waits_for_a_lock_is_left_out(conn: Connection, connect: Connect) -> None:
    """It keeps nobody waiting behind it."""
    holder = connect(autocommit=False)
    holder.execute("LOCK TABLE pgq_need IN ACCESS EXCLUSIVE MODE")
    begin = time.monotonic()
    found = examine(conn)
    assert time.monotonic() - begin < 10
    assert {"blocked-in-vain", "blocked-by-failed"} <= {one.code for one in found.unseen}
    assert len(found.unseen) < 10
    assert {one.reason for one in found.unseen} == {"canceling statement due to lock timeout"}


def test_an_examination_ends_after_half_a_minute(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left then is not checked."""
    monkeypatch.setattr(pgq.doctor.reading, "EXAMINE_WITHIN", 0.5)

    def sleep(reading: Reading) -> Iterable[Finding]:
        reading.rows("SELECT pg_sleep(60)")
        return []

    def follow(reading: Reading) -> Iterable[Finding]:
        reading.rows("SELECT 1")
        return []

    found = examine(conn, checks=[*checks(sleep), *checks(follow)])
    assert {one.code: one.reason for one in found.unseen}["follow"] == "the checks before it took too long"


@pytest.mark.parametrize(("query", "reason"), [("SELECT 1 / 0", "division by zero"), (None, "ZeroDivisionError")])
def test_a_check_that_fails_is_left_out(conn: Connection, query: str | None, reason: str) -> None:
    """Whether the server or the program fails."""

    def fail(reading: Reading) -> Iterable[Finding]:
        reading.rows(query) if query else 1 / 0
        return []

    (unseen,) = examine(conn, checks=checks(fail)).unseen
    assert unseen.code == "fail"
    assert reason in unseen.reason


def test_a_connection_that_is_lost_is_an_error(conn: Connection, connect: Connect) -> None:
    """Nothing can be said about the database."""
    examined = connect()

    def kill(reading: Reading) -> Iterable[Finding]:
        conn.execute("SELECT pg_terminate_backend(%s, 5000)", [examined.info.backend_pid])
        reading.rows("SELECT 1")
        return []

    with pytest.raises(psycopg.OperationalError):
        examine(examined, checks=checks(kill))


def test_a_database_without_pgq(conn: Connection) -> None:
    """A schema without pgq, and a schema that does not exist."""
    conn.execute("CREATE SCHEMA other")
    for schema in ("other", "nowhere"):
        with pytest.raises(NotInstalled) as missing:
            examine(conn, schema)
        assert "pgq install" in str(missing.value.hint)


def test_another_schema(conn: Connection) -> None:
    """The search path does not matter, and the schema may have any name."""
    conn.execute('CREATE SCHEMA "It""s 100%"')
    install(conn, schema='It"s 100%')
    Queue(conn, schema='It"s 100%').enqueue("k", queue="lost", ripe_at=PAST)
    conn.execute("DROP SCHEMA public CASCADE")
    conn.execute("SET search_path = pg_catalog")
    found = examine(conn, 'It"s 100%')
    assert found.unseen == ()
    assert [one.details["queue"] for one in found.findings if one.code == "no-worker"] == ["lost"]


def test_a_role_without_rights_is_told_what_it_lacks(conn: Connection, owner: Connection, as_: As) -> None:
    """A reader sees what the views show, and is not told that the rest is healthy."""
    session = as_("web")
    with pytest.raises(NotInstalled) as hidden:
        examine(session)
    assert "let the owner call pgq_grant" in str(hidden.value.hint)
    Queue(owner).grant("web", "producer")
    found = examine(session)
    assert found.findings == ()
    needs = {check.code: check.needs for check in CHECKS}
    assert {one.code for one in found.unseen} == {code for code, needed in needs.items() if needed & ~Needs.PRIMARY}

    Queue(owner).enqueue("k", queue="lost", ripe_at=PAST)
    Queue(owner).grant("web", "reader")
    found = examine(session)
    assert [one.code for one in found.findings] == ["no-worker"]
    lacks = Needs.OWNER | Needs.MONITOR
    assert {one.code for one in found.unseen} == {code for code, needed in needs.items() if needed & lacks}
    reasons = {one.code: (one.reason, one.remedy) for one in found.unseen}
    assert reasons["held-job"] == (
        'only the owner of pgq, role "owner", may read the tables that tell',
        "Run pgq doctor as the owner.",
    )
    assert reasons["connections"] == (
        'role "web" does not see the sessions of other roles',
        "GRANT pg_monitor TO web;",
    )
    conn.execute("GRANT pg_monitor TO web")
    try:
        found = examine(session)
        assert {one.code for one in found.unseen} == {code for code, needed in needs.items() if needed & Needs.OWNER}
    finally:
        conn.execute("REVOKE pg_monitor FROM web")


def test_a_role_that_sees_some_queues_is_told_so(owner: Connection, as_: As) -> None:
    """What is wrong in the others is not found."""
    for queue in ("mine", "theirs"):
        Queue(owner).enqueue("k", queue=queue, ripe_at=PAST)
    Queue(owner).grant("web", "reader", ["mine"])
    found = examine(as_("web"))
    assert [one.details["queue"] for one in found.findings] == ["mine"]
    (unseen,) = [one for one in found.unseen if one.code == "no-worker"]
    assert unseen.reason == 'role "web" sees some of the queues only'


def test_of_many_findings_of_a_kind_the_first_are_returned(conn: Connection) -> None:
    """The number of the others is told."""
    many = [Finding("x", "note", f"{n}", "", "") for n in range(25)]
    found = examine(conn, checks=checks(lambda reading: many))
    assert list(found.findings) == many[:20]
    assert [one.reason for one in found.unseen] == ["only the first 20 of 25 such findings are shown"]


def test_findings_are_sorted_by_severity(conn: Connection) -> None:
    """The worst come first, and any error is unhealthy."""
    kinds = [Finding("x", severity, "", "", "") for severity in ("note", "error", "warning", "error")]
    found = examine(conn, checks=checks(lambda reading: kinds))
    assert [one.severity for one in found.findings] == ["error", "error", "warning", "note"]
    assert not found.is_healthy
    assert replace(found, findings=found.findings[2:]).is_healthy
