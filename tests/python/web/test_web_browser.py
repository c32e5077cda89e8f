"""The pages in a real browser: nothing fails, all actions work, and everybody can use them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.browser import Browser, browser
from support.database import Connection, one
from support.web import HOSTILE, Client, Filled, addresses, fill, pages, violations

pytestmark = pytest.mark.slow
WIDTHS = (320, 480, 768, 1024, 1440, 1920)
SCHEMES = ("light", "dark")
TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    """A browser for the tests of this file."""
    with browser() as tab:
        yield tab


@pytest.fixture
def filled(conn: Connection) -> Filled:
    """Something on each page."""
    return fill(conn)


@pytest.fixture
def client(dsn: str, filled: Filled) -> Iterator[Client]:
    """The pages, with actions."""
    with pages(dsn, allow_actions=True) as client:
        yield client


@pytest.fixture
def page(tab: Browser, client: Client) -> Browser:
    """The browser, at 1024 pixels, without what earlier tests have left."""
    tab.size(1024)
    tab.prefer("light")
    tab.errors.clear()
    return tab


def confirmations(filled: Filled) -> list[str]:
    """Return the addresses of pages that ask."""
    return [f"/do/retry?ids={filled.dead}", "/do/pause?queue=mail", "/do/cancel?queue=mail", "/jobs/4000000000"]


def test_no_page_has_an_error_and_all_fit_each_width(page: Browser, client: Client, filled: Filled) -> None:
    for address in addresses(filled) + confirmations(filled)[:3]:
        for width in WIDTHS:
            page.size(width)
            page.open(client.url + address)
            assert not page.evaluate(TOO_WIDE), (address, width)
        assert "<script>alert" not in page.evaluate("document.body.innerHTML"), address
        assert page.evaluate("document.querySelectorAll('script').length") == 1, address
    assert page.errors == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_nothing(page: Browser, client: Client, filled: Filled, scheme: str) -> None:
    page.prefer(scheme)
    for address in addresses(filled) + confirmations(filled):
        page.open(client.url + address)
        assert violations(page) == [], address


def test_the_keyboard_reaches_everything_in_order(page: Browser, client: Client) -> None:
    """The first stop is the link to the content; then come the pages, then what is on this one."""
    page.open(client.url + "/jobs")
    stops = []
    for _ in range(14):
        page.press("Tab", 9)
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    assert stops[:3] == ["To the content", "pgq", "Overview"]
    assert stops.index("state") > stops.index("Workers") > stops.index("Queues")
    page.open(client.url + "/jobs")
    page.press("Tab", 9)
    page.press("Enter", 13)
    page.wait("document.activeElement.id == 'main' || location.hash == '#main'")


def test_hostile_names_are_text(page: Browser, client: Client, filled: Filled) -> None:
    shown = HOSTILE.replace("\u202e", "\ufffd").replace("\x07", "\ufffd")
    page.open(f"{client.url}/jobs/{filled.hostile}")
    assert shown in page.evaluate("document.querySelector('h1').innerText")
    assert "<script>alert(1)" in page.evaluate("document.querySelector('#args pre').innerText")
    # The link of its queue leads to the jobs of that queue.
    page.evaluate("document.querySelector('.facts a').click()")
    page.wait("location.pathname == '/jobs' && document.readyState == 'complete'")
    assert page.evaluate("document.querySelector('#queue').value") == HOSTILE.replace("\x07", "\x07")
    assert page.evaluate("document.querySelectorAll('tbody tr').length") == 2


def confirm(page: Browser, button: str) -> None:
    """Press a button that leads to a confirmation, and the one that confirms."""
    page.evaluate(f"document.querySelector({button!r}).click()")
    page.wait("document.querySelector('.confirm form[method=post] button') && document.readyState == 'complete'")
    page.click(".confirm form[method=post] button")
    page.wait("!document.querySelector('.confirm form[method=post]') && document.readyState == 'complete'")


def test_a_person_retries_and_cancels_a_job(page: Browser, client: Client, conn: Connection, filled: Filled) -> None:
    page.open(f"{client.url}/jobs/{filled.dead}")
    confirm(page, "form[action='/do/retry'] button")
    assert page.evaluate("document.querySelector('.heading .state').innerText").strip() == "waiting"
    confirm(page, "form[action='/do/cancel'] button")
    assert page.evaluate("document.querySelector('.heading .state').innerText").strip() == "cancelled"
    assert one(conn, "SELECT state FROM pgq_jobs WHERE id = %s", filled.dead) == "cancelled"


def test_a_person_pauses_a_queue_and_changes_its_limits(page: Browser, client: Client, conn: Connection) -> None:
    page.open(f"{client.url}/queues/settings?queue=mail")
    page.type("#limit-max_running", "7")
    confirm(page, "form[action='/do/limits'] button")
    assert one(conn, "SELECT max_running FROM pgq_queues WHERE queue = 'mail'") == 7
    confirm(page, "form[action='/do/pause'] button")
    assert one(conn, "SELECT paused FROM pgq_queues WHERE queue = 'mail'") is True


def test_a_person_discards_dead_letters_of_a_cause(page: Browser, client: Client, conn: Connection) -> None:
    page.open(f"{client.url}/dead")
    assert page.evaluate("document.querySelectorAll('tbody tr').length") == 2
    row = "[...document.querySelectorAll('tbody tr')].findIndex((row) => row.innerText.includes('charge'))"
    nth = page.evaluate(row) + 1
    confirm(page, f"tbody tr:nth-child({nth}) form[action='/do/purge'] button")
    assert "3 discarded" in page.evaluate("document.querySelector('main').innerText")
    assert one(conn, "SELECT count(*) FROM pgq_jobs WHERE kind = 'charge' AND state = 'dead'") == 0


def test_the_page_follows_and_keeps_focus_scroll_and_open_details(
    page: Browser, client: Client, conn: Connection, filled: Filled
) -> None:
    page.size(480, 300)
    page.open(f"{client.url}/jobs/{filled.dead}")
    page.evaluate("document.querySelector('details').open = true; document.querySelector('summary').focus()")
    page.evaluate("window.isSame = true; scrollTo(0, 200)")
    conn.execute("SELECT pgq_retry(%s)", [filled.dead])
    page.wait("document.querySelector('.heading .state').innerText.trim() == 'waiting'")
    assert page.evaluate("window.isSame")
    assert page.evaluate("document.querySelector('details').open")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    assert page.evaluate("scrollY") == 200


def test_the_page_says_when_it_is_stale(page: Browser, client: Client, conn: Connection) -> None:
    page.open(client.url + "/jobs")
    conn.execute("ALTER FUNCTION pgq_find_jobs RENAME TO gone")
    page.wait("document.getElementById('live').classList.contains('stale')")
    conn.execute("ALTER FUNCTION gone RENAME TO pgq_find_jobs")
    page.wait("!document.getElementById('live').classList.contains('stale')")


def test_a_page_that_nobody_sees_asks_nothing(page: Browser, client: Client) -> None:
    page.open(client.url + "/jobs")
    hidden = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
    page.evaluate(
        "window.asked = 0; const real = fetch;"
        "window.fetch = (...given) => { window.asked += 1; return real(...given); };"
        + hidden % "true"
        + "document.dispatchEvent(new Event('visibilitychange'))"
    )
    # Longer than the time between two looks.
    page.awaited("new Promise((done) => setTimeout(done, 6000))")
    assert page.evaluate("window.asked") == 0
    page.evaluate(hidden % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
    page.wait("window.asked == 1")


def test_without_javascript_the_page_reloads(page: Browser, client: Client) -> None:
    page.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.command("Page.navigate", url=client.url + "/jobs")
        page.wait("document.readyState == 'complete' && location.pathname == '/jobs'")
        assert page.evaluate("document.querySelector('meta[http-equiv=refresh]') !== null")
        assert page.evaluate("getComputedStyle(document.getElementById('live')).display") == "none"
    finally:
        page.command("Emulation.setScriptExecutionDisabled", value=False)
