"""Count statements between client and server, at no cost to either."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import threading
from pathlib import Path
from types import TracebackType

CONTROL = (b"BEGIN", b"COMMIT", b"ROLLBACK")


class Counter:
    """Counts the statements in one client's stream of messages."""

    def __init__(self) -> None:
        self.queries = 0
        self.control = 0
        self._buffer = b""
        self._started = False
        self._control_parsed = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self._buffer += data
        if not self._started and len(self._buffer) >= 4:
            # The first message has no type byte.
            (length,) = struct.unpack_from("!i", self._buffer)
            if len(self._buffer) >= length:
                self._buffer = self._buffer[length:]
                self._started = True
        while self._started and len(self._buffer) >= 5:
            (length,) = struct.unpack_from("!i", self._buffer, 1)
            if len(self._buffer) < 1 + length:
                break
            self._message(self._buffer[:1], self._buffer[5 : 1 + length])
            self._buffer = self._buffer[1 + length :]

    def _message(self, kind: bytes, body: bytes) -> None:
        if kind == b"P":
            self._control_parsed = body.partition(b"\0")[2].upper().startswith(CONTROL)
        elif kind in {b"Q", b"E"}:
            if self._control_parsed if kind == b"E" else body.upper().startswith(CONTROL):
                self.control += 1
            else:
                self.queries += 1
            self._control_parsed = False


class Proxy:
    """A proxy to the server that libpq's variables name; it counts the statements of each client."""

    def __init__(self) -> None:
        self.counters: list[Counter] = []
        self._directory = tempfile.TemporaryDirectory(prefix="pgq-")
        self.host = self._directory.name
        self._port = os.environ.get("PGPORT", "5432")
        self._socket = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Proxy:
        self._socket.bind(str(Path(self.host, f".s.PGSQL.{self._port}")))
        self._socket.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._directory.cleanup()

    @property
    def counts(self) -> tuple[int, int]:
        """The number of queries, and of statements that only begin or end a transaction."""
        return sum(counter.queries for counter in self.counters), sum(counter.control for counter in self.counters)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            server = self._dial()
            counter = Counter()
            self.counters.append(counter)
            threading.Thread(target=self._forward, args=[client, server, counter], daemon=True).start()
            threading.Thread(target=self._forward, args=[server, client, None], daemon=True).start()

    def _dial(self) -> socket.socket:
        host = os.environ.get("PGHOST", "localhost")
        if not host.startswith("/"):
            return socket.create_connection((host, int(self._port)))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(Path(host, f".s.PGSQL.{self._port}")))
        return server

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket, counter: Counter | None) -> None:
        try:
            while data := source.recv(65536):
                if counter:
                    counter.feed(data)
                target.sendall(data)
        except OSError:
            pass
        finally:
            target.close()
            source.close()
