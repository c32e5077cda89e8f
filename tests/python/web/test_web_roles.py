"""The role of the connection decides what the pages show, and what they let do."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from psycopg.conninfo import make_conninfo
from support.database import Connection, one
from support.web import HOSTILE, Client, Filled, addresses, fill, pages, unescaped

ROLES = {
    "page_reader": ("reader", None),
    "page_admin": ("admin", ["mail"]),
    "page_producer": ("producer", None),
    "page_nobody": (None, None),
}


@pytest.fixture
def filled(conn: Connection) -> Filled:
    """Something on each page, and the roles."""
    filled = fill(conn)
    for role, (privilege, queues) in ROLES.items():
        conn.execute(f"DROP ROLE IF EXISTS {role}".encode())
        conn.execute(f"CREATE ROLE {role} LOGIN".encode())
        if privilege:
            conn.execute("SELECT pgq_grant(%s, %s, %s::text[])", [role, privilege, queues])
    return filled


@pytest.fixture
def client(request: pytest.FixtureRequest, dsn: str, conn: Connection, filled: Filled) -> Iterator[Client]:
    """The pages of a role, with actions."""
    role: str = request.param
    with pages(make_conninfo(dsn, user=role), allow_actions=True) as client:
        yield client
    for other in ROLES:
        conn.execute(f"DROP OWNED BY {other}; DROP ROLE {other}".encode())


def as_role(role: str) -> pytest.MarkDecorator:
    """Parametrize a test with the role of its pages."""
    return pytest.mark.parametrize("client", [role], indirect=True)


@as_role("page_reader")
def test_a_reader_sees_numbers_and_no_payload(client: Client, filled: Filled) -> None:
    for address in addresses(filled):
        reply = client.get(address)
        assert reply.status == 200, (address, reply.text)
        assert not re.search("ann0|declined|stocktake|&#34;rows", reply.text), address
    job = client.get(f"/jobs/{filled.waiting}").text
    assert "this role may not read the arguments" in job
    # A search finds kinds, but is no way to guess arguments.
    assert "welcome" in client.get("/jobs?search=welc").text
    assert ">welcome<" not in client.get("/jobs?search=ann0").text


@as_role("page_reader")
def test_a_reader_may_do_nothing_and_learns_who_may(client: Client, conn: Connection, filled: Filled) -> None:
    for address in (f"/do/retry?ids={filled.dead}", "/do/pause?queue=mail", "/do/run?name=nightly"):
        reply = client.confirm(address)
        assert reply.status == 403, (address, reply.text)
        assert "pgq_grant('page_reader', 'admin')" in unescaped(reply.text), address
    assert one(conn, "SELECT state FROM pgq_jobs WHERE id = %s", filled.dead) == "dead"


@as_role("page_admin")
def test_an_admin_of_one_queue_sees_and_does_only_what_is_in_it(
    client: Client, conn: Connection, filled: Filled
) -> None:
    for address in addresses(filled):
        reply = client.get(address)
        assert reply.status in (200, 404, 403, 409), (address, reply.text)
        assert not re.search("declined|stocktake|transform|nightly<", reply.text), address
        assert HOSTILE[:20] not in unescaped(reply.text.partition("<main")[2].partition('id="list"')[2]), address
    assert "ann0" in client.get(f"/jobs/{filled.waiting}").text
    assert client.get(f"/jobs/{filled.dead}").status == 404
    assert client.confirm(f"/do/cancel?ids={filled.waiting}").status == 200
    assert one(conn, "SELECT state FROM pgq_jobs WHERE id = %s", filled.waiting) == "cancelled"
    # The job of another queue is not found, and a number that is sent all the same is refused.
    page = client.get(f"/do/retry?ids={filled.dead}").text
    assert "Retry 0 jobs?" in page
    (token,) = re.findall(r'name="form_token" value="([^"]+)"', page)
    reply = client.post("/do/retry", {"form_token": token, "ids": str(filled.dead)})
    assert f"there is no job {filled.dead}" in reply.text
    assert one(conn, "SELECT state FROM pgq_jobs WHERE id = %s", filled.dead) == "dead"
    reply = client.confirm("/do/pause?queue=pay")
    assert reply.status == 403
    assert "pgq_grant('page_admin', 'admin', ARRAY['pay'])" in unescaped(reply.text)


@pytest.mark.parametrize("client", ["page_producer", "page_nobody"], indirect=True)
def test_a_role_without_a_grant_is_told_who_may(client: Client, filled: Filled) -> None:
    for address in addresses(filled):
        reply = client.get(address)
        assert reply.status == 403, (address, reply.text)
        assert "Ask the owner of pgq" in reply.text, address
