"""A proxy before a server that breaks connections at a moment the test chooses."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from psycopg.conninfo import make_conninfo

Direction = Literal["to server", "to client"]

BOTH: tuple[Direction, Direction] = ("to server", "to client")
# The codes of the requests for TLS and for GSSAPI, which precede all other messages.
ENCRYPTION = (80877103, 80877104)
READY_FOR_QUERY = b"Z"
# The messages that have a statement executed: Query and Bind.
EXECUTES = (b"Q", b"B")


@dataclass
class Trap:
    """Break a connection when the client sends this pattern; ``sprung`` is set afterwards."""

    pattern: bytes
    delivered: bool
    sprung: threading.Event = field(default_factory=threading.Event)


@dataclass
class Alarm:
    """Call ``act`` at a moment of the statements of all connections, and break the connection; then set ``sprung``."""

    moment: int
    act: Callable[[], None]
    sprung: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """
    Forward connections from a port of 127.0.0.1 to a server's Unix socket, from ``__enter__`` to ``__exit__``.

    It works in its own thread. A broken connection is reset for the client, and closed for the server. While it is
    stalled, both sides see a live peer that sends nothing.
    """

    host = "127.0.0.1"

    def __init__(self, upstream: Path) -> None:
        self.upstream = upstream
        self.flows = {direction: asyncio.Event() for direction in BOTH}
        self.trap: Trap | None = None
        self.alarm: Alarm | None = None
        self._links: set[_Link] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Proxy:
        """Start to listen."""
        # Bound, but never listening: it keeps the port while connections are refused.
        self._reserved = self._bound(0)
        self.port: int = self._reserved.getsockname()[1]
        self._thread.start()
        self.accept()
        self.resume()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Cut the remaining connections."""
        self.refuse()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reserved.close()

    def refuse(self) -> None:
        """Refuse new connections; existing ones stay."""

        async def refuse() -> None:
            if self._listener is not None:
                self._listener.close()
                self._listener = None

        self._do(refuse())

    def accept(self) -> None:
        """Accept connections, as at the start."""

        async def accept() -> None:
            self._listener = await asyncio.start_server(self._serve, sock=self._bound(self.port))

        self._do(accept())

    def cut(self) -> None:
        """Break all connections."""

        async def cut() -> None:
            for link in self._links:
                link.cut()
            while self._links:
                await asyncio.sleep(0)

        self._do(cut())

    def stall(self, *directions: Direction) -> None:
        """Forward nothing in these directions, or in both; data sent meanwhile waits."""

        async def stall() -> None:
            for direction in directions or BOTH:
                self.flows[direction].clear()

        self._do(stall())

    def resume(self) -> None:
        """Forward in both directions, as at the start."""

        async def resume() -> None:
            for flow in self.flows.values():
                flow.set()

        self._do(resume())

    def lead(self, dsn: str) -> str:
        """Return a connection string for the same database through the proxy."""
        return make_conninfo(dsn, host=self.host, port=self.port)

    def cut_before(self, pattern: bytes) -> threading.Event:
        """
        Break the next connection that sends a statement with this pattern, before it reaches the server.

        The pattern may be in a simple query, or in the text or the parameters of a prepared statement that is executed.
        """
        return self._set(Trap(pattern, delivered=False))

    def cut_after(self, pattern: bytes) -> threading.Event:
        """
        Break the next connection that sends a statement with this pattern, after the server has executed it.

        The connection breaks at the next ReadyForQuery, in a pipeline at its Sync, and no result of the statement
        passes. The client must have waited for the result of each earlier Sync.
        """
        return self._set(Trap(pattern, delivered=True))

    def act_at(self, moment: int, act: Callable[[], None]) -> threading.Event:
        """
        Call ``act`` at a moment, counted from 1, and break the connection.

        A moment is before a statement reaches the server, or before the client learns that the server has executed one
        or begun the session. In a pipeline, all that is sent before a Sync is executed at one moment.
        """
        alarm = Alarm(moment, act)

        async def set_() -> None:
            self.alarm = alarm

        self._do(set_())
        return alarm.sprung

    def _set(self, trap: Trap) -> threading.Event:
        async def set_() -> None:
            self.trap = trap

        self._do(set_())
        return trap.sprung

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    def _bound(self, port: int) -> socket.socket:
        # asyncio disables Nagle's delays only where the protocol is named.
        bound = socket.socket(proto=socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((self.host, port))
        return bound

    def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        link = _Link(self, reader, writer)
        self._links.add(link)
        link.task.add_done_callback(lambda _: self._links.discard(link))


class _Link:
    """A client's connection, and the one to the server behind it. The protocol is parsed only as far as needed."""

    def __init__(self, proxy: Proxy, reader: StreamReader, writer: StreamWriter) -> None:
        self._proxy = proxy
        self._client = reader, writer
        self._statements: dict[bytes, bytes] = {}
        self._trap: Trap | None = None
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Forward messages until one of the two sides closes."""
        client, to_client = self._client
        try:
            server, to_server = await asyncio.open_unix_connection(self._proxy.upstream)
        except OSError:
            to_client.close()
            return
        ways = asyncio.gather(self._forward_to_server(client, to_server), self._forward_to_client(server, to_client))
        try:
            await ways
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            ways.cancel()
        finally:
            to_server.close()
            to_client.close()

    def cut(self) -> None:
        """Reset the connection of the client, and close the one to the server."""
        _, writer = self._client
        # Without lingering, a close is a reset.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        self.task.cancel()

    async def _forward_to_server(self, client: StreamReader, server: StreamWriter) -> None:
        while True:
            length = await client.readexactly(4)
            body = await client.readexactly(int.from_bytes(length) - 4)
            if int.from_bytes(body[:4]) not in ENCRYPTION:
                break
            self._client[1].write(b"N")
        await self._pass("to server", server, length + body)
        while True:
            kind, message = await _message(client)
            statement, trap = self._statement(kind, message[5:]), self._proxy.trap
            if trap is not None and trap.pattern in statement:
                self._proxy.trap = None
                if not trap.delivered:
                    self.cut()
                    trap.sprung.set()
                    return
                self._trap = trap
            if kind in EXECUTES and self._alarmed():
                return
            await self._pass("to server", server, message)

    async def _forward_to_client(self, server: StreamReader, client: StreamWriter) -> None:
        while True:
            kind, message = await _message(server)
            if kind == READY_FOR_QUERY and self._alarmed():
                return
            if self._trap is None:
                await self._pass("to client", client, message)
            elif kind == READY_FOR_QUERY:
                self.cut()
                self._trap.sprung.set()
                return

    def _alarmed(self) -> bool:
        """Count a moment; return whether it was that of the alarm."""
        alarm = self._proxy.alarm
        if alarm is None:
            return False
        alarm.moment -= 1
        if alarm.moment:
            return False
        self._proxy.alarm = None
        alarm.act()
        self.cut()
        alarm.sprung.set()
        return True

    async def _pass(self, direction: Direction, writer: StreamWriter, message: bytes) -> None:
        await self._proxy.flows[direction].wait()
        writer.write(message)
        await writer.drain()

    def _statement(self, kind: bytes, body: bytes) -> bytes:
        """Return the text of the statement that a message executes, with its parameters; nothing for other messages."""
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._statements[name] = text
        if kind == b"B":
            _, name, parameters = body.split(b"\0", 2)
            return self._statements.get(name, b"") + parameters
        return body if kind == b"Q" else b""


async def _message(reader: StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(int.from_bytes(head[1:]) - 4)
