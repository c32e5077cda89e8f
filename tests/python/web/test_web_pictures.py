"""The pictures of docs/: a shop in the evening. `make pictures` writes them; the test throws them away."""

from __future__ import annotations

import math
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.browser import browser
from support.database import Connection
from support.threads import eventually
from support.web import TRACEBACK, pages

from pgq import WorkerQueue
from pgq.overview import Rates
from pgq.web.history import Watch

pytestmark = pytest.mark.slow
# Where to write them.
PICTURES = os.environ.get("PGQ_PICTURES")
HOUR = timedelta(hours=1)
POINTS = 60
CAUSES = (
    ("invoice", "billing", TRACEBACK, 12),
    ("thumbnail", "images", "OSError: cannot identify image file", 5),
    ("welcome", "mail", "smtplib.SMTPServerDisconnected: Connection unexpectedly closed", 3),
)


def shop(conn: Connection) -> int:
    """Fill a database with the jobs of a shop, and return the number of one that waits for others."""
    queue = WorkerQueue(conn)
    conn.execute("SELECT pgq_register('web-1/worker', '{mail,billing}', 'web-1', 4411, '{welcome,invoice,remind}')")
    conn.execute("SELECT pgq_register('web-2/worker', '{images,reports}', 'web-2', 812, NULL)")
    for kind, name, error, jobs in CAUSES:
        for n in range(jobs):
            queue.enqueue(kind, {"order": 4200 + n}, queue=name, max_retries=0)
            (job,) = queue.claim([name], worker="web-1/worker")
            queue.fail(job, error)
    queue.enqueue_many({"kind": "thumbnail", "queue": "images", "args": n} for n in range(48))
    queue.enqueue_many({"kind": "invoice", "queue": "billing", "args": n} for n in range(19))
    queue.enqueue_many({"kind": "welcome", "queue": "mail", "args": n} for n in range(7))
    queue.claim(["images"], max_jobs=4, worker="web-2/worker")
    queue.claim(["billing"], max_jobs=2, worker="web-1/worker")
    queue.configure("billing", {"max_running": 2})
    queue.enqueue("import", queue="partner")
    queue.pause("partner")
    extracts = [queue.enqueue("extract", {"shop": n}, queue="reports").id for n in range(3)]
    merged = queue.enqueue("merge", {"night": "2026-11-27"}, queue="reports", after=extracts).id
    for kind in ("publish", "archive"):
        queue.enqueue(kind, queue="reports", after=[merged])
    queue.schedule("nightly", "0 3 * * *", "report", queue="reports", timezone="Europe/Berlin")
    return merged


def invented(n: int, share: float = 1.0) -> Rates:
    """Return the rates of a minute of the evening."""
    wave = 1 + 0.3 * math.sin(n / 9) + 0.08 * math.sin(n / 1.7)
    burst = 9.0 if 38 <= n <= 43 else 0.4
    return Rates(
        at=datetime.now(UTC),
        enqueued=share * 42 * wave,
        ended=share * 41 * (wave + 0.05 * math.sin(n / 2.5)),
        failed=share * burst * wave,
        waited=0.12 + 0.9 * math.exp(-((n - 41) ** 2) / 18),
    )


@pytest.fixture
def an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of the shop, which nobody waits for."""
    begun_at = datetime.now(UTC) - 5 * HOUR
    monkeypatch.setattr(Watch, "begun_at", property(lambda _: begun_at, lambda _, value: None), raising=False)
    monkeypatch.setattr(Watch, "series", lambda _, at, queue=None: [invented(n) for n in range(POINTS)])
    monkeypatch.setattr(Watch, "rates", lambda _, queue=None: invented(POINTS, 1.0 if queue is None else 0.3))


@pytest.mark.usefixtures("an_hour")
def test_the_pictures_of_the_documentation(dsn: str, conn: Connection, tmp_path: Path) -> None:
    """Each page is drawn in light and in dark colours."""
    job = shop(conn)
    addresses = {"overview": "/", "queues": "/queues", "job": f"/jobs/{job}", "dead": "/dead"}
    with pages(dsn, allow_actions=True) as client, browser() as tab:
        tab.command("Emulation.setScrollbarsHidden", hidden=True)
        client.get("/")
        eventually(lambda: "Looked at" in client.get("/").text)
        for name, address in addresses.items():
            drawn = []
            for scheme in ("light", "dark"):
                tab.size(1180, 760)
                tab.prefer(scheme)
                tab.open(client.url + address)
                tab.size(1180, min(tab.evaluate("document.querySelector('footer').offsetTop + 70"), 900))
                drawn.append(tab.screenshot())
                (Path(PICTURES or tmp_path) / f"web-{name}-{scheme}.png").write_bytes(drawn[-1])
            assert drawn[0] != drawn[1]
