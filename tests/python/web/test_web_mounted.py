"""The pages below a path of another application."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from support.database import Connection, one
from support.processes import COMMAND, installed, invoke
from support.web import Client, Filled, addresses, fill, served

import pgq.web


@pytest.fixture
def filled(conn: Connection) -> Filled:
    """Something on each page."""
    return fill(conn)


def links(page: str) -> list[str]:
    """Return all addresses of a page, as far as they are of this host."""
    return re.findall(r'(?:href|src|action)="(/[^"?#]*)', page)


def test_all_links_are_below_the_mount(dsn: str, conn: Connection, filled: Filled) -> None:
    application = Starlette(routes=[Mount("/team/jobs", pgq.web.app(dsn, allow_actions=True))])
    with served(application) as client:
        for address in ("/team/jobs/", *(f"/team/jobs{address}" for address in addresses(filled)[1:])):
            reply = client.get(address)
            assert reply.status == 200, (address, reply.text)
            assert links(reply.text)
            assert all(link.startswith("/team/jobs/") for link in links(reply.text)), address
        assert client.get("/team/jobs/static/pgq.css").status == 200
        assert client.confirm(f"/team/jobs/do/retry?ids={filled.dead}").status == 200
    assert one(conn, "SELECT state FROM pgq_jobs WHERE id = %s", filled.dead) == "waiting"


def test_a_proxy_that_serves_a_path_is_told_by_root_path(dsn: str, filled: Filled) -> None:
    with served(pgq.web.app(dsn), root_path="/jobs") as client:
        # The proxy strips the path; the server adds it.
        page = Client(client.url.removesuffix("/jobs")).get("/dead")
        assert page.status == 200
        assert all(link.startswith("/jobs/") for link in links(page.text))


def test_the_package_does_not_import_starlette() -> None:
    code = "import sys, pgq, pgq.cli; sys.exit(bool({'starlette', 'jinja2', 'uvicorn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_serves_the_pages(dsn: str, filled: Filled, tmp_path: Path) -> None:
    """It says where, logs no query, and ends on SIGTERM."""
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [COMMAND, "web", "--port", "0"], env=os.environ | {"PGQ_DSN": dsn}, stderr=subprocess.PIPE, text=True
        )
        try:
            assert process.stderr is not None
            for line in process.stderr:
                log.write(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            assert found is not None
            with urllib.request.urlopen(f"{found[0]}/jobs?search=secret", timeout=60) as reply:
                assert reply.status == 200
            process.terminate()
            log.write(process.stderr.read())
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        lines = log.read()
        assert "GET /jobs 200" in lines
        assert "secret" not in lines


def test_an_address_of_a_network_takes_the_names_of_the_host() -> None:
    done = subprocess.run(
        [COMMAND, "web", "--host", "0.0.0.0"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "--allow-host" in done.stderr


def test_a_port_that_is_taken_is_an_error(dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = installed("--dsn", dsn, "web", "--port", str(listener.getsockname()[1]))
    assert done.returncode == 1
    assert "pgq: cannot listen on this address" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", ["jinja2", "starlette", "uvicorn"])
def test_without_the_extra_the_command_names_it(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == missing or name.startswith("pgq.web")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    done = invoke("web")
    assert done.returncode == 1
    assert f"this Python has no module {missing}" in done.stderr
    assert "Install pgq-jobs[web]." in done.stderr
