"""The pages of pgq, served in a thread, a database that has something on each of them, and a browser's checks."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from typing import Any

import psycopg
import pytest
import uvicorn
from starlette.types import ASGIApp

import pgq.web
from support.browser import Browser
from support.npm import fetched
from support.threads import eventually

# Markup, quotes, a mark that turns the direction of text, a bell, and what a template or a query might take apart.
HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}%s\u202e\x07/../?a=b#c"
# As a worker in Python keeps it: the message first.
TRACEBACK = (
    "app.Declined: the card was declined\n\n"
    'Traceback (most recent call last):\n  File "/app/tasks.py", line 7, in charge\n    raise Declined("card")\n'
)


@dataclass
class Reply:
    """The reply to a request."""

    status: int
    text: str
    headers: Any


@dataclass
class Client:
    """A client that keeps cookies, as a browser does, and follows redirects."""

    url: str
    _opener: urllib.request.OpenerDirector = field(
        default_factory=lambda: urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    )

    def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        """Ask for a page."""
        return self._open(urllib.request.Request(self.url + path, headers=headers or {}))

    def post(self, path: str, form: dict[str, str], headers: dict[str, str] | None = None) -> Reply:
        """Send a form."""
        data = urllib.parse.urlencode(form).encode()
        return self._open(urllib.request.Request(self.url + path, data, headers=headers or {}))

    def confirm(self, path: str) -> Reply:
        """Open the page of an action, and send its form."""
        page = self.get(path)
        assert page.status == 200, page.text
        action = re.findall(r'<form method="post" action="([^"]+)">', page.text)
        return self.post(
            action[0].removeprefix(urllib.parse.urlsplit(self.url).path).replace("&amp;", "&"), hidden(page.text)
        )

    def _open(self, request: urllib.request.Request) -> Reply:
        try:
            with self._opener.open(request, timeout=60) as reply:
                return Reply(reply.status, reply.read().decode(), reply.headers)
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.read().decode(), error.headers)


def hidden(page: str) -> dict[str, str]:
    """Return the hidden fields of the form of a confirmation."""
    form = page.partition('<form method="post"')[2].partition("</form>")[0]
    fields = re.findall(r'type="hidden" name="([^"]*)" value="([^"]*)"', form)
    return {name: unescaped(value) for name, value in fields}


def unescaped(text: str) -> str:
    """Return text without the escapes of Jinja."""
    for escape, character in (("&#34;", '"'), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        text = text.replace(escape, character)
    return text


@contextmanager
def served(application: ASGIApp, *, root_path: str = "") -> Iterator[Client]:
    """Serve an application in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(application, access_log=False, log_config=None, root_path=root_path)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        eventually(lambda: server.started)
        try:
            yield Client(f"http://127.0.0.1:{listener.getsockname()[1]}{root_path}")
        finally:
            server.should_exit = True
            thread.join(30)


@contextmanager
def pages(*dsns: str, patience: float = 30, **options: Any) -> Iterator[Client]:
    """Serve the pages of some databases; beside a busy machine, a request has more time than two seconds."""
    with pytest.MonkeyPatch.context() as patch, served(pgq.web.app(dsns, **options)) as client:
        patch.setattr("pgq.web.database.PATIENCE", patience)
        yield client


@dataclass(frozen=True)
class Filled:
    """The numbers of some jobs of a database with something on each page."""

    waiting: int
    running: int
    dead: int
    hostile: int
    blocked: int
    batch: int
    done: int


def fill(conn: psycopg.Connection[Any]) -> Filled:
    """Put something on each page."""
    queue = pgq.WorkerQueue(conn)
    conn.execute("SELECT pgq_register('mailer', '{mail,pay}', 'host-a', 7, '{charge,welcome}')")
    waiting = queue.enqueue("welcome", {"to": "ann0@example.org"}, queue="mail").id
    for n in (1, 2):
        queue.enqueue("welcome", {"to": f"ann{n}@example.org"}, queue="mail")
    conn.execute("SELECT pgq_enqueue('charge', jsonb_build_object('amount', n), 'pay') FROM generate_series(1, 4) AS n")
    for _ in range(3):
        (job,) = queue.claim(["pay"], worker="mailer")
        queue.fail(job, TRACEBACK, retry=False)
    dead = job.id
    (job,) = queue.claim(["pay"], worker="mailer")
    running = job.id
    queue.save(job, {"steps": {"stocktake": 1}, "progress": {"done": 0.4, "note": "charged"}})
    first = queue.enqueue("extract", queue="etl").id
    blocked = queue.enqueue("transform", queue="etl", after=[first]).id
    queue.enqueue("load", queue="etl", after=[blocked])
    batch = queue.enqueue_batch(
        "summary", {}, [{"kind": "part", "args": n, "queue": "etl"} for n in range(4)], queue="etl"
    )
    queue.configure("kept", {"keep_done": "1 day"})
    done = queue.enqueue("report", queue="kept").id
    (job,) = queue.claim(["kept"], worker="mailer")
    queue.complete(job, {"rows": 12})
    queue.configure("mail", {"max_running": 5, "rate": 100, "per": "1 minute"})
    queue.pause("etl")
    queue.schedule("nightly", "0 3 * * *", "report", queue="kept", timezone="Europe/Berlin")
    queue.schedule(HOSTILE, "@daily", HOSTILE, HOSTILE, queue=HOSTILE)
    queue.run_schedule("nightly")
    hostile = queue.enqueue(HOSTILE, {HOSTILE: HOSTILE}, queue=HOSTILE, group_key=HOSTILE, max_retries=0).id
    (job,) = queue.claim([HOSTILE], worker=HOSTILE)
    queue.fail(job, f"{HOSTILE}\n{HOSTILE}")
    queue.enqueue(HOSTILE, queue=HOSTILE)
    queue.claim([HOSTILE], worker=HOSTILE)
    return Filled(waiting, running, dead, hostile, blocked, batch.id, done)


def addresses(filled: Filled) -> list[str]:
    """Return the addresses of all kinds of pages."""
    quoted = urllib.parse.quote(HOSTILE, safe="")
    return [
        "/", "/queues", "/queues/settings?queue=mail", f"/queues/settings?queue={quoted}", "/jobs",
        "/jobs?state=dead", f"/jobs?queue={quoted}&kind={quoted}&search={quoted}",
        *(f"/jobs/{number}" for number in astuple(filled)),
        "/dead", "/batches", "/schedules", "/schedules/show?name=nightly", f"/schedules/show?name={quoted}", "/workers",
    ]  # fmt: skip


AXE = "axe-core@4"


def violations(page: Browser) -> list[str]:
    """Return what axe-core finds wrong with the accessibility of a page."""
    tree = fetched(AXE)
    if tree is None:
        pytest.fail("npm cannot fetch axe-core")
    source = (tree / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")
    page.command("Runtime.evaluate", expression=source)
    found = page.awaited("axe.run().then((result) => JSON.stringify(result.violations))")
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:200]} {node.get('failureSummary', '')[:300]}"
        for violation in json.loads(found)
        for node in violation["nodes"]
    ]
