"""The examples of web applications: their own tests, and their processes behind a browser and under signals."""

from __future__ import annotations

import os
import re
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

import pytest
from psycopg.conninfo import conninfo_to_dict
from support.browser import browser
from support.chat import Chat
from support.database import Connection, one
from support.paths import ROOT
from support.threads import eventually

from pgq.testing import DatabaseClock

PROGRAMS = Path(sys.executable).parent
PYTEST = ("python", "-m", "pytest", "-p", "no:cacheprovider", ".")
MANAGE = ("python", "manage.py")


@dataclass(frozen=True)
class Example:
    """The commands of an example; that of the web server takes a socket that it inherits."""

    name: str
    tests: tuple[str, ...]
    web: tuple[str, ...]
    worker: tuple[str, ...] = ("pgq", "worker", "reminders")

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return ROOT / "examples" / self.name

    def command(self, command: tuple[str, ...], fd: int = -1) -> list[str]:
        """Return a command with the path of its program."""
        return [str(PROGRAMS / command[0]), *(part.format(fd=fd) for part in command[1:])]


GUNICORN = ("gunicorn", "--threads", "4", "--bind", "fd://{fd}")
EXAMPLES = (
    Example("quart", (*PYTEST, "-p", "anyio.pytest_plugin"), ("hypercorn", "--bind", "fd://{fd}", "app:create_app()")),
    Example("flask", (*PYTEST, "-p", "pgq.pytest_plugin"), (*GUNICORN, "app:create_app()")),
    Example(
        "django",
        (*MANAGE, "test", "--noinput"),
        (*GUNICORN, "django.core.wsgi:get_wsgi_application()"),
        (*MANAGE, "pgq_worker"),
    ),
)
pytestmark = pytest.mark.slow
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
STATE = "document.querySelector('tr:last-child td:last-child')?.innerText"


@pytest.fixture
def env(dsn: str) -> dict[str, str]:
    """The environment of the processes. Plugins of pytest that nothing needs would take longer than the tests."""
    names = {"dbname": "PGDATABASE"}
    database = {names.get(name, f"PG{name.upper()}"): str(value) for name, value in conninfo_to_dict(dsn).items()}
    settings = {"DJANGO_SETTINGS_MODULE": "settings", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return os.environ | database | settings | {"PGQ_DSN": dsn}


@each_example
def test_the_tests_of_an_example_pass(example: Example, env: dict[str, str]) -> None:
    """They are run as a reader of the example would run them."""
    run = subprocess.run(
        example.command(example.tests),
        cwd=example.directory,
        env=env,
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
        """Add a reminder as a client without JavaScript does, with the hidden fields and the cookies of the form."""
        client = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        page = client.open(self.url, timeout=60).read().decode()
        hidden = re.findall(r'type="hidden" name="(\w+)" value="([^"]+)"', page)
        form = dict(hidden) | {"text": text, "minutes": str(minutes)}
        client.open(self.url, urllib.parse.urlencode(form).encode(), timeout=60).close()

    def stop(self) -> list[int]:
        """Stop both processes as a service manager does; return their exit codes."""
        for process in (self.web, self.worker):
            process.send_signal(signal.SIGTERM)
        return [process.wait(60) for process in (self.web, self.worker)]


@pytest.fixture
def application(example: Example, env: dict[str, str], conn: Connection) -> Iterator[Application]:
    """The processes of an example, on a database of its own; those that still run at the end are killed."""
    if example.name == "django":
        migrate = example.command((*MANAGE, "migrate", "--verbosity", "0"))
        subprocess.run(migrate, cwd=example.directory, env=env, check=True)
    else:
        conn.execute((example.directory / "schema.sql").read_bytes())
    with ExitStack() as stack:
        chat = stack.enter_context(Chat())
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        env = env | {"REMINDERS_URL": chat.url}

        def start(command: tuple[str, ...]) -> subprocess.Popen[bytes]:
            full = example.command(command, server.fileno())
            process = subprocess.Popen(full, cwd=example.directory, env=env, pass_fds=[server.fileno()])
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        url = f"http://127.0.0.1:{server.getsockname()[1]}/reminders"
        yield Application(start(example.web), start(example.worker), chat, url)


@each_example
def test_a_person_is_reminded_once(example: Example, application: Application, conn: Connection) -> None:
    """The form is sent by a double click; the page shows how the job fails, and that it is done, without a reload."""
    application.chat.is_down = True
    with DatabaseClock.like(conn) as clock, browser() as page:
        begin = datetime.now(UTC).replace(tzinfo=None)
        clock.set(begin)
        page.open(application.url)
        page.type("[name=text]", "tea & <b>cake</b>")
        page.click("button", count=2)
        page.wait(f"{STATE} == 'waiting'")
        # Whatever the second click has begun is over.
        page.open(application.url)
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


@each_example
def test_a_stop_lets_a_reminder_be_sent(example: Example, application: Application, conn: Connection) -> None:
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
    assert one(conn, "SELECT string_agg(state, ' ') FROM pgq_jobs WHERE state <> 'done'") == "waiting"
