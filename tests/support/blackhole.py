"""A server that the network sees on another host, and a link to it that can lose packets."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import IO

import pytest
from postgres.server import Server
from psycopg.conninfo import make_conninfo

CLONE_NEWNET = 0x40000000
# The hardware address of no interface: packets to it are lost without an error.
NO_INTERFACE = "02:00:00:00:00:00"


def ip(*arguments: str) -> None:
    """Run the command ip with these arguments."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Link:
    """A link between this host and a network namespace."""

    def __init__(self, stack: ExitStack) -> None:
        """Create the link, and let the stack remove it. Raise CalledProcessError where that is not permitted."""
        self.namespace = f"pgq-{secrets.token_hex(4)}"
        # The name of an interface has at most 15 bytes. The addresses are from the range reserved for benchmarks.
        near, far = f"{self.namespace}-a", f"{self.namespace}-b"
        first = 4 * secrets.randbelow(1 << 15)
        here, self.address = (f"198.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in (first + 1, first + 2))
        self._ends = [([], near, self.address), (["-n", self.namespace], far, here)]

        ip("netns", "add", self.namespace)
        stack.callback(ip, "netns", "delete", self.namespace)
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", self.namespace)
        stack.callback(ip, "link", "delete", near)
        for (where, device, _), address in zip(self._ends, (here, self.address), strict=True):
            ip(*where, "address", "add", f"{address}/30", "dev", device)
            ip(*where, "link", "set", device, "up")
        ip("-n", self.namespace, "link", "set", "lo", "up")

    @contextmanager
    def beyond(self) -> Iterator[None]:
        """Place what this thread opens or starts in the namespace."""
        with open("/proc/thread-self/ns/net", "rb") as here, open(f"/run/netns/{self.namespace}", "rb") as there:
            _enter(there)
            try:
                yield
            finally:
                _enter(here)

    def cut(self) -> None:
        """Lose all packets, in both directions."""
        for where, device, peer in self._ends:
            ip(*where, "neighbour", "replace", peer, "lladdr", NO_INTERFACE, "nud", "permanent", "dev", device)

    def mend(self) -> None:
        """Let packets through again."""
        for where, device, peer in self._ends:
            ip(*where, "neighbour", "delete", peer, "dev", device)


@contextmanager
def far_server(settings: Mapping[str, str]) -> Iterator[tuple[Server, Link, str]]:
    """
    Yield a server behind a link, the link, and a connection string over it; its Unix socket always works.

    A link needs root: without it the test is skipped.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root and the command ip")
    with ExitStack() as stack:
        try:
            link = Link(stack)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"a network namespace is not permitted here: {error.stderr.strip()}")
        server = Server(settings={"listen_addresses": link.address, **settings})
        with link.beyond():
            stack.enter_context(server)
        with (server.datadir / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\n")
        with link.beyond():
            server.restart()
        yield server, link, make_conninfo(host=link.address, port=server.port, user=server.user, dbname=server.dbname)


def _enter(namespace: IO[bytes]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
