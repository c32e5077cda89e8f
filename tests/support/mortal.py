"""Workers that are killed at each moment of their statements, and the service outside the database that they call."""

from __future__ import annotations

import importlib.util
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol
from unittest.mock import patch

from pgq import Worker
from support.database import Connection, one
from support.proxy import Proxy
from support.threads import eventually

# Children begin with these modules imported: a run begins in milliseconds.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pgq", "pytest", "http.server", "multiprocessing.spawn"])
OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
# On a machine that is busy, each start of a worker takes seconds.
ENDS_WITHIN = 300.0


class Outside:
    """
    A service that is called by HTTP: it does a thing once for each idempotency key, and returns a number for the key.

    ``calls`` has the path and the key of each call.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._numbers: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Outside:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def done(self) -> list[tuple[str, str]]:
        """What was done, without the calls that repeat an idempotency key."""
        return sorted(set(self.calls))

    def _handler(outside) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                key = self.headers["Idempotency-Key"]
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                outside.calls.append((self.path, key))
                number = outside._numbers.setdefault(key, len(outside._numbers) + 1)
                body = json.dumps({"number": number}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        return Handler


class Mortal(Protocol):
    """A worker process."""

    def has_ended(self) -> bool: ...

    def stop(self) -> None:
        """Stop it as an operator does, and wait for its end."""

    def kill(self) -> None:
        """Kill it and its children."""


class PythonWorker:
    """A worker with the handlers of a module."""

    def __init__(self, module: Path, queue: str, environment: Mapping[str, str], dsn: str) -> None:
        self._process = FORKS.Process(target=_run, args=(dsn, module, queue, dict(environment)), daemon=True)
        # The child would import the program of the tests as its main module.
        with patch.multiple(sys.modules["__main__"], create=True, __spec__=None, __file__=None):
            self._process.start()

    def has_ended(self) -> bool:
        return not self._process.is_alive()

    def stop(self) -> None:
        self._process.terminate()
        self._process.join(ENDS_WITHIN)

    def kill(self) -> None:
        self._process.kill()


def _run(dsn: str, module: Path, queue: str, environment: Mapping[str, str]) -> None:
    # Until the worker has taken over the signal, a child stops at once.
    os.environ.update(environment)
    spec = importlib.util.spec_from_file_location(module.stem, module)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    Worker(dsn, queues=[queue], poll=0.1).run()


class Program:
    """A program that ends when its work is done. It has a process group of its own."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=os.environ | environment, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        self._process.wait(ENDS_WITHIN)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)


class Deaths:
    """
    Lives of jobs, in each of which a worker is killed once: at each moment of the statements of a life in turn.

    ``start`` starts a worker on a database; ``bury`` is called after the sessions of one that was killed have ended.
    """

    def __init__(
        self,
        conn: Connection,
        proxy: Proxy,
        start: Callable[[], Mortal],
        bury: Callable[[], object] = lambda: None,
    ) -> None:
        self.count = 0
        self._conn = conn
        self._proxy = proxy
        self._start = start
        self._bury = bury
        self._is_started = threading.Event()
        self._worker: Mortal | None = None

    def at_each_moment(self, life: Callable[[], None], stride: int = 1) -> None:
        """Call ``life``, which calls ``work``, until a life is over before its moment comes."""
        for moment in itertools.count(1, stride):
            deaths = self.count
            self._proxy.act_at(moment, self._kill)
            life()
            if self.count == deaths:
                return

    def work(self, is_reached: Callable[[], bool]) -> None:
        """Let a worker run, and others after it if it is killed or ends, until something is reached."""
        give_up_at = time.monotonic() + ENDS_WITHIN
        while not is_reached():
            assert time.monotonic() < give_up_at
            deaths = self.count
            self._is_started.clear()
            self._worker = worker = self._start()
            self._is_started.set()
            while not (worker.has_ended() or is_reached()):
                assert time.monotonic() < give_up_at
                time.sleep(0.005)
            worker.stop()
            eventually(lambda: one(self._conn, OTHERS) == 0, "the sessions of the worker end")
            if self.count > deaths:
                self._bury()

    def _kill(self) -> None:
        assert self._is_started.wait(ENDS_WITHIN)
        assert self._worker is not None
        self.count += 1
        self._worker.kill()
