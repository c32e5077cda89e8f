"""The examples of web applications: their own tests, and their processes behind a browser and under signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from support.browser import browser
from support.chat import Chat
from support.database import Connection, one
from support.paths import ROOT
from support.threads import eventually

from pgq.testing import DatabaseClock

PROGRAMS = Path(sys.executable).parent
# How the tests of each run, without plugins of pytest that they do not need, which take longer than they do.
TESTS = {
    "flask": ("-m", "pytest", "-p", "no:cacheprovider", "."),
    "quart": ("-m", "pytest", "-p", "no:cacheprovider", "-p", "anyio.pytest_plugin", "."),
}
# What serves each of them, on a socket that it inherits.
SERVERS = {
    "flask": ("gunicorn", "app:create_app()", "--threads", "4", "--bind", "fd://{fd}"),
    "quart": ("hypercorn", "app:create_app()", "--bind", "fd://{fd}"),
}
STATE = "document.querySelector('tr:last-child td:last-child')?.innerText"


@pytest.mark.parametrize("name", TESTS)
def test_the_tests_of_an_application_pass(name: str, dsn: str) -> None:
    """They are run as a reader of the example would run them."""
    run = subprocess.run(
        [sys.executable, *TESTS[name]],
        cwd=ROOT / "examples" / name,
        env=os.environ | {"PGQ_DSN": dsn, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@dataclass(frozen=True)
class Application:
    """The web server and the worker of an application, and the chat that it sends reminders to."""

    web: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes]
    chat: Chat
    url: str

    def add(self, text: str, minutes: int) -> None:
        """Add a reminder as a client without JavaScript does."""
        form = urllib.parse.urlencode({"key": uuid4(), "text": text, "minutes": minutes}).encode()
        urllib.request.urlopen(self.url, form, timeout=60).close()

    def stop(self) -> list[int]:
        """Stop both processes as a service manager does; return their exit codes."""
        for process in (self.web, self.worker):
            process.send_signal(signal.SIGTERM)
        return [process.wait(60) for process in (self.web, self.worker)]


@pytest.fixture(params=SERVERS)
def application(request: pytest.FixtureRequest, conn: Connection, dsn: str) -> Iterator[Application]:
    """Each application, on a database of its own; processes that still run at the end are killed."""
    directory = ROOT / "examples" / request.param
    conn.execute((directory / "schema.sql").read_bytes())
    with ExitStack() as stack:
        chat = stack.enter_context(Chat())
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        server.set_inheritable(True)
        env = os.environ | {"PGQ_DSN": dsn, "REMINDERS_URL": chat.url, "PYTHONUNBUFFERED": "1"}

        def start(program: str, *options: str) -> subprocess.Popen[bytes]:
            command = [str(PROGRAMS / program), *options]
            process = subprocess.Popen(command, cwd=directory, env=env, pass_fds=[server.fileno()])
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        web = start(*(part.format(fd=server.fileno()) for part in SERVERS[request.param]))
        worker = start("pgq", "worker", "reminders")
        yield Application(web, worker, chat, f"http://127.0.0.1:{server.getsockname()[1]}/reminders")


@pytest.mark.slow
def test_a_person_is_reminded_once(application: Application, conn: Connection) -> None:
    """The form is sent by a double click; the page shows how the job fails, and that it is done, without a reload."""
    application.chat.is_down = True
    with DatabaseClock.like(conn) as clock, browser() as page:
        begin = datetime.now(UTC).replace(tzinfo=None)
        clock.set(begin)
        page.open(application.url)
        page.type("[name=text]", "tea & <b>cake</b>")
        page.click("button", count=2)
        page.wait(f"{STATE} == 'waiting'")
        assert page.evaluate("document.querySelector('td').innerText") == "tea & <b>cake</b>"
        page.type("[name=text]", "half a te")
        clock.set(begin + timedelta(hours=2, minutes=1))
        page.wait(f"{STATE}?.startsWith('waiting: urllib.error.HTTPError: HTTP Error 503')")
        application.chat.is_down = False
        clock.set(begin + timedelta(hours=2, minutes=2))
        page.wait(f"{STATE} == 'sent'")
        assert page.evaluate("document.querySelector('[name=text]').value") == "half a te"
        assert page.evaluate("document.querySelectorAll('td').length") == 3
    first, second = application.chat.sent
    assert first == second
    assert application.stop() == [0, 0]


@pytest.mark.slow
def test_a_stop_lets_a_reminder_be_sent(application: Application, conn: Connection) -> None:
    """The worker finishes what it has begun, and leaves the rest."""
    application.chat.goes_on.clear()
    application.add("tea", 0)
    eventually(lambda: len(application.chat.sent) == 1)
    application.add("cake", 0)
    for process in (application.web, application.worker):
        process.send_signal(signal.SIGTERM)
    assert application.web.wait(60) == 0
    assert application.worker.poll() is None
    application.chat.goes_on.set()
    assert application.worker.wait(60) == 0
    assert conn.execute("SELECT text, sent_at IS NOT NULL FROM reminder ORDER BY due").fetchall() == [
        ("tea", True),
        ("cake", False),
    ]
    assert one(conn, "SELECT string_agg(state, ' ') FROM pgq_jobs") == "waiting"
