"""The doctor finds rights that are wider than they must be."""

from __future__ import annotations

import pytest
from support.database import As, Connection
from support.doctor import finding, findings, mend

from pgq import Queue, WorkerQueue, install


@pytest.fixture
def owner(as_: As) -> Connection:
    """A session of an ordinary role, in whose schema pgq is installed."""
    conn = as_("owner")
    install(conn)
    return conn


def test_the_owner_is_a_superuser(conn: Connection) -> None:
    assert finding(conn, "owner-is-superuser").details["owner"] == conn.info.user


def test_the_owner_is_an_ordinary_role(conn: Connection, owner: Connection) -> None:
    for session in (conn, owner):
        assert findings(session, "owner-is-superuser") == []


def test_roles_that_may_create_in_the_schema(conn: Connection, owner: Connection) -> None:
    """The owner of pgq and superusers may."""
    assert findings(owner, "may-create") == []
    owner.execute("GRANT CREATE ON SCHEMA public TO PUBLIC, web")
    every, web = findings(conn, "may-create")
    assert (every.severity, web.severity) == ("error", "warning")
    assert every.title == "every role may create objects in the schema public of pgq"
    assert web.details["role"] == "web"
    for found in (every, web):
        mend(owner, found)
    assert findings(owner, "may-create") == []


def test_what_pgq_grant_gives_is_no_finding(owner: Connection) -> None:
    """It gives functions and views."""
    for privilege in ("producer", "worker", "admin", "reader"):
        Queue(owner).grant("web", privilege)
    assert findings(owner, "stray-grant") == []


def test_privileges_beside_pgq_grant(owner: Connection) -> None:
    """On a function for every role, on a function for one, and on a table."""
    owner.execute("GRANT EXECUTE ON FUNCTION pgq_claim TO PUBLIC")
    owner.execute("GRANT EXECUTE ON FUNCTION pgq_purge TO web")
    owner.execute("GRANT SELECT, DELETE ON pgq_waiting TO web")
    every, function, table = findings(owner, "stray-grant")
    assert (every.severity, every.details["names"]) == ("error", ["pgq_claim"])
    assert (function.details["role"], function.details["names"]) == ("web", ["pgq_purge"])
    assert (table.details["what"], table.details["privileges"]) == ("TABLE", ["DELETE", "SELECT"])
    for found in (every, function, table):
        owner.execute(found.remedy.split("; ")[0].encode())
    assert findings(owner, "stray-grant") == []


def test_a_table_is_a_finding_also_for_a_role_with_a_privilege(owner: Connection) -> None:
    """It shows the jobs of all queues."""
    Queue(owner).grant("web", "worker", ["mail"])
    owner.execute("GRANT SELECT ON pgq_waiting TO web")
    assert finding(owner, "stray-grant").details["names"] == ["pgq_waiting"]


def test_a_worker_that_may_use_more_queues_than_it_serves(conn: Connection, owner: Connection, as_: As) -> None:
    """It counts only where other roles are kept to their queues."""
    conn.execute("DROP ROLE IF EXISTS clerk")
    conn.execute("CREATE ROLE clerk")
    try:
        Queue(owner).grant("web", "worker")
        WorkerQueue(as_("web")).register("w", ["mail", "it's"])
        assert findings(conn, "wide-grant") == []
        Queue(owner).grant("clerk", "producer", ["orders"])
        found = finding(conn, "wide-grant")
        assert found.severity == "note"
        assert found.details == {"role": "web", "queues": ["it's", "mail"]}
        mend(owner, found)
        assert findings(conn, "wide-grant") == []
    finally:
        conn.execute("DROP OWNED BY clerk")
        conn.execute("DROP ROLE clerk")
