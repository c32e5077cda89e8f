"""The pages as a client without JavaScript sees them."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.database import Connection, jobs, one
from support.threads import eventually
from support.web import HOSTILE, TRACEBACK, Client, Filled, addresses, fill, pages, unescaped

import pgq.web
from pgq import WorkerQueue
from pgq.web.pages.job import LONGEST
from pgq.web.security import HEADERS

SHOWN = HOSTILE.replace("\u202e", "\ufffd").replace("\x07", "\ufffd")


@pytest.fixture
def filled(conn: Connection) -> Filled:
    """Something on each page."""
    return fill(conn)


@pytest.fixture
def client(dsn: str, filled: Filled) -> Iterator[Client]:
    """The pages, which let do nothing."""
    with pages(dsn) as client:
        yield client


@pytest.fixture
def acting(dsn: str, filled: Filled) -> Iterator[Client]:
    """The pages, with actions."""
    with pages(dsn, allow_actions=True) as client:
        yield client


def words(page: str) -> str:
    """Return the text of a page."""
    return re.sub(r"\s+", " ", unescaped(re.sub(r"<[^>]*>", " ", page.partition("<main")[2])))


def test_every_page_is_there_and_has_the_headers(client: Client, filled: Filled) -> None:
    for address in addresses(filled):
        reply = client.get(address)
        assert reply.status == 200, (address, reply.text)
        for name, value in HEADERS.items():
            assert reply.headers[name] == value
        assert reply.headers["Cache-Control"] == "no-store"
        assert " style=" not in reply.text
        assert not re.search(r"<script>|<script [^>]*>[^<]| on\w+=", reply.text.replace(SHOWN, ""))


def test_hostile_names_and_payloads_are_text(client: Client, filled: Filled) -> None:
    for address in addresses(filled):
        assert "<script>alert" not in client.get(address).text
    for address in ("/", "/queues", "/jobs", "/dead", "/schedules", "/workers"):
        assert SHOWN in words(client.get(address).text), address
    job = words(client.get(f"/jobs/{filled.hostile}").text)
    assert job.count(SHOWN) > 4


def test_the_jobs_are_listed_page_by_page(client: Client, conn: Connection) -> None:
    conn.execute("SELECT pgq_enqueue('many', to_jsonb(n), 'many') FROM generate_series(1, 120) AS n")
    seen: list[str] = []
    address: str | None = "/jobs?queue=many"
    while address:
        page = client.get(address).text
        seen += re.findall(r'class="id" href="/jobs/(\d+)"', page)
        older = re.search(r'href="([^"]+)" rel="next"', page)
        address = unescaped(older[1]) if older else None
    ids = [str(row[0]) for row in conn.execute("SELECT id FROM pgq_jobs WHERE queue = 'many' ORDER BY id DESC")]
    assert seen == ids


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ("state=dead&queue=pay", {"charge"}),
        ("search=ann1%40example", {"welcome"}),
        ("search=welc", {"welcome"}),
        ("kind=report", {"report"}),
        ("state=blocked", {"transform", "load", "summary"}),
        ("search=no+such+text", set()),
        ("state=nonsense&kind=report", {"report"}),
    ],
)
def test_the_jobs_are_filtered_and_searched(client: Client, query: str, kinds: set[str]) -> None:
    page = client.get(f"/jobs?{query}").text
    assert set(re.findall(r'<td class="cut"><bdi>([^<]*)</bdi>', page)) == kinds


def test_a_job_shows_what_has_happened_to_it(client: Client, filled: Filled) -> None:
    dead = client.get(f"/jobs/{filled.dead}").text
    assert "<summary" in dead
    assert TRACEBACK.splitlines()[0] in unescaped(dead)
    assert "Attempt 1 failed by mailer" in words(dead)
    running = words(client.get(f"/jobs/{filled.running}").text)
    assert "40 % charged" in running
    assert '"stocktake": 1' in running
    blocked = client.get(f"/jobs/{filled.blocked}").text
    assert {"extract", "transform", "load"} <= set(re.findall(r'<text class="kind"[^>]*>([^<]*)', blocked))
    assert blocked.count('<path class="link"') == 2
    assert "Blocked: waits for 1 other job" in words(blocked)
    assert '"rows": 12' in words(client.get(f"/jobs/{filled.done}").text)


def test_a_queue_with_other_settings_shows_the_groups_that_run(client: Client, conn: Connection) -> None:
    """Where max_per_group is not among what is set."""
    conn.execute("SELECT pgq_enqueue('welcome', queue => 'mail', group_key => 'ann')")
    WorkerQueue(conn).claim(["mail"], 10)
    page = client.get("/queues/settings?queue=mail")
    assert page.status == 200
    assert "Group Running ann 1" in words(page.text)


def test_a_job_that_is_not_there_is_not_found(client: Client) -> None:
    reply = client.get("/jobs/4000000000")
    assert reply.status == 404
    assert "there is no job 4000000000" in reply.text
    assert client.get("/no-such-page").status == 404
    assert client.get("/jobs/99999999999999999999999").status in (404, 400)


def test_a_sensitive_queue_hides_its_arguments_until_an_admin_asks(
    client: Client, conn: Connection, filled: Filled, dsn: str
) -> None:
    conn.execute("""SELECT pgq_configure('mail', '{"sensitive": true}'), pgq_configure('pay', '{"sensitive": true}')""")
    assert "ann0@example" not in client.get(f"/jobs/{filled.waiting}").text
    assert "ann0@example" in client.get(f"/jobs/{filled.waiting}?show=all").text
    assert TRACEBACK.splitlines()[0] not in client.get(f"/jobs/{filled.dead}").text
    for address in ("/", "/jobs", "/dead", "/jobs?search=ann0%40example"):
        page = client.get(address).text
        assert TRACEBACK.splitlines()[0] not in page, address
    with pages(dsn, allow_actions=True) as acting:
        assert "Retry 3 jobs?" in acting.get("/do/retry?queue=pay&kind=charge&error=").text
    # The search would be a way to guess them.
    assert "welcome" not in words(client.get("/jobs?search=ann0%40example").text)


ACTIONS = (
    ("/do/retry?ids={dead}", "SELECT state FROM pgq_jobs WHERE id = {dead}", "waiting"),
    ("/do/cancel?ids={waiting}", "SELECT state FROM pgq_jobs WHERE id = {waiting}", "cancelled"),
    ("/do/purge?ids={dead}", "SELECT count(*) FROM pgq_jobs WHERE id = {dead}", 0),
    ("/do/pause?queue=mail&for=1+hour", "SELECT paused_until > now() FROM pgq_queues WHERE queue = 'mail'", True),
    ("/do/resume?queue=etl", "SELECT paused FROM pgq_queues WHERE queue = 'etl'", False),
    ("/do/limits?queue=mail&max_running=9", "SELECT max_running FROM pgq_queues WHERE queue = 'mail'", 9),
    ("/do/run?name=nightly", "SELECT count(*) FROM pgq_jobs WHERE kind = 'report' AND state = 'waiting'", 2),
    ("/do/hold?name=nightly", "SELECT paused FROM pgq_schedules WHERE name = 'nightly'", True),
)  # fmt: skip


@pytest.mark.parametrize(("address", "query", "after"), ACTIONS)
def test_an_action_is_confirmed_and_done(
    acting: Client, conn: Connection, filled: Filled, address: str, query: str, after: object
) -> None:
    names = {name: getattr(filled, name) for name in ("dead", "waiting")}
    before = one(conn, query.format(**names))
    assert before != after
    assert acting.get(address.format(**names)).status == 200
    assert one(conn, query.format(**names)) == before
    assert acting.confirm(address.format(**names)).status == 200
    assert one(conn, query.format(**names)) == after


def test_dead_letters_of_one_cause_are_retried_together(acting: Client, conn: Connection, filled: Filled) -> None:
    page = acting.get("/dead").text
    cause = TRACEBACK.splitlines()[0]
    address = f"/do/retry?{urllib.parse.urlencode({'queue': 'pay', 'kind': 'charge', 'error': cause})}"
    assert cause in unescaped(page)
    assert "Retry 3 jobs?" in acting.get(address).text
    conn.execute("UPDATE pgq_error SET error = 'another' WHERE id = %s", [filled.dead])
    assert "Retry 2 jobs?" in acting.get(address).text
    assert "2 put back to waiting" in words(acting.confirm(address).text)
    assert one(conn, "SELECT count(*) FROM pgq_jobs WHERE kind = 'charge' AND state = 'dead'") == 1


def test_a_confirmation_touches_what_it_has_shown(acting: Client, conn: Connection) -> None:
    """A job that comes later is not among them."""
    page = acting.get("/do/cancel?queue=mail&state=waiting")
    assert "Cancel 3 jobs?" in page.text
    (token,) = re.findall(r'name="form_token" value="([^"]+)"', page.text)
    (ids,) = re.findall(r'name="ids" value="([^"]+)"', page.text)
    late = one(conn, "SELECT id FROM pgq_enqueue('late', queue => 'mail')")
    assert "3 cancelled" in words(acting.post("/do/cancel", {"form_token": token, "ids": ids}).text)
    assert one(conn, "SELECT state FROM pgq_jobs WHERE id = %s", late) == "waiting"


def test_a_state_in_which_jobs_cannot_be_touched_finds_none(acting: Client) -> None:
    """Not those in other states, which the person did not mean."""
    assert "Cancel 0 jobs?" in acting.get("/do/cancel?state=dead&queue=pay").text
    assert "Retry 0 jobs?" in acting.get("/do/retry?state=waiting&queue=mail").text
    assert "Retry 3 jobs?" in acting.get("/do/retry?queue=pay").text


def test_numbers_keep_all_their_digits(client: Client, conn: Connection) -> None:
    number = "12345678901234567890.1234567890123456789000"
    job = one(conn, f"SELECT id FROM pgq_enqueue('precise', '[{number}]')")
    assert number in client.get(f"/jobs/{job}").text


def test_a_value_that_is_nested_deep_is_not_laid_out(client: Client, conn: Connection) -> None:
    """Before each of the thousand numbers there would be as many spaces."""
    text = "[" * 200 + ", ".join(["1"] * 10_000) + "]" * 200
    job = one(conn, "SELECT id FROM pgq_enqueue('deep', %s::jsonb)", text)
    page = client.get(f"/jobs/{job}").text
    assert "[[[[[" in page
    assert f"and {len(text) - LONGEST:,} characters more" in page


def test_without_actions_there_is_none(client: Client, conn: Connection, filled: Filled) -> None:
    before = jobs(conn)
    assert client.get(f"/do/retry?ids={filled.dead}").status == 404
    assert client.post("/do/retry", {"ids": str(filled.dead)}).status == 404
    for address in addresses(filled):
        assert "/do/" not in client.get(address).text
    assert jobs(conn) == before


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://evil.example"}, {"Origin": "null"}])
def test_a_form_of_another_site_does_nothing(
    acting: Client, conn: Connection, filled: Filled, headers: dict[str, str]
) -> None:
    page = acting.get(f"/do/retry?ids={filled.dead}").text
    (token,) = re.findall(r'name="form_token" value="([^"]+)"', page)
    # Without a header it lacks the token; with one it has even that.
    form = {"ids": str(filled.dead)} | ({"form_token": token} if headers else {"form_token": "x" * 43})
    assert acting.post("/do/retry", form, headers).status == 403
    assert one(conn, "SELECT state FROM pgq_jobs WHERE id = %s", filled.dead) == "dead"


def test_a_foreign_host_name_is_refused(dsn: str) -> None:
    """Otherwise a page of another site, whose name resolves to this machine, could read all."""
    with pages(dsn, hosts=["127.0.0.1", "localhost", "::1"]) as client:
        assert client.get("/").status == 200
        for host in ("evil.example", "evil.example:8740", "", "127.0.0.1.evil.example", "[::1"):
            reply = client.get("/", {"Host": host})
            assert reply.status in (400, 421), host
            assert "pgq_jobs" not in reply.text
        assert client.get("/", {"Host": "LOCALHOST:1"}).status == 200
        assert client.get("/", {"Host": "[::1]:8740"}).status == 200


def test_several_databases_have_a_switch(dsn: str, other_dsn: str, other: Connection) -> None:
    other.execute("SELECT pgq_enqueue('elsewhere')")
    with pages(dsn, other_dsn) as client:
        first = client.get("/jobs").text
        labels = re.findall(r"<option(?: selected)?>([^<]*pgq_test[^<]*)</option>", first)
        assert len(labels) == 2
        assert "elsewhere" not in words(first)
        second = client.get(f"/jobs?{urllib.parse.urlencode({'db': labels[1]})}").text
        assert "elsewhere" in words(second)
        assert "db=" in second
        assert client.get("/jobs?db=nonsense").status == 404


def test_a_database_that_is_down_has_a_page(dsn: str) -> None:
    secret = make_conninfo(dsn, port=1, password="hush")
    with pages(secret) as client:
        reply = client.get("/")
        assert reply.status == 503
        assert "The database cannot be reached" in reply.text
        assert "hush" not in reply.text


def test_a_database_that_is_slow_has_a_page(filled: Filled, dsn: str) -> None:
    with pages(dsn, patience=2) as client:
        with psycopg.connect(dsn) as blocker:
            blocker.execute("LOCK TABLE pgq_ended IN ACCESS EXCLUSIVE MODE")
            reply = client.get("/jobs")
            assert reply.status == 503
            assert "The database is slow" in reply.text
            # The overview names the parts that it does not know.
            overview = client.get("/")
            assert overview.status == 200
            assert "it takes longer than" in overview.text
        eventually(lambda: client.get("/jobs").status == 200)


def test_a_database_of_another_version_has_a_page(conn: Connection, dsn: str) -> None:
    conn.execute("CREATE OR REPLACE FUNCTION pgq_version() RETURNS text LANGUAGE sql IMMUTABLE RETURN '0.0.9'")
    with pages(dsn) as client:
        reply = client.get("/")
        assert reply.status == 503
        assert "0.0.9" in reply.text
        assert "pgq upgrade" in reply.text


def test_a_database_without_pgq_has_a_page(conn: Connection, dsn: str) -> None:
    conn.execute("DROP SCHEMA public CASCADE")
    with pages(dsn) as client:
        reply = client.get("/")
        assert reply.status == 503
        assert "pgq install" in reply.text


def test_a_connection_that_was_cut_is_replaced(client: Client, conn: Connection) -> None:
    assert client.get("/jobs").status == 200
    conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgq web'")
    eventually(lambda: client.get("/jobs").status == 200)


def test_the_log_has_no_payload(
    client: Client, filled: Filled, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither of a search nor of a page that fails by a mistake."""

    def fail(saved: object) -> None:
        raise ValueError(f"{saved} secret")

    monkeypatch.setattr("pgq.web.pages.job.progress_of", fail)
    reply = client.get(f"/jobs/{filled.running}?search=secret")
    assert reply.status == 500
    assert "a page has failed: ValueError in" in caplog.text
    assert "secret" not in caplog.text
    assert "stocktake" not in caplog.text


def test_a_bad_dsn_is_refused_without_its_password() -> None:
    with pytest.raises(ValueError, match="not one that libpq can read") as caught:
        pgq.web.app("postgresql://ann:hush@[")
    assert "hush" not in str(caught.value)
    with pytest.raises(ValueError, match="at least one database"):
        pgq.web.app([])
