"""What counts as a refusal of a connection: the SQLSTATE decides, in whatever language the server writes."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pgq.worker.refusal import Refusal, refuses
from pgq.worker.server import Server

# Requests for an encrypted connection, which come before that for a session.
ENCRYPTION = {struct.pack(">II", 8, 80877103), struct.pack(">II", 8, 80877104)}
PASSWORD_WANTED = b"R" + struct.pack(">II", 8, 3)


def error(sqlstate: str, message: str = "keine Ahnung, wozu:  28P01") -> bytes:
    """Return the message of a German server that ends a connection."""
    fields = f"SSCHWERWIEGEND\0VFATAL\0C{sqlstate}\0M{message}\0\0".encode()
    return b"E" + struct.pack(">I", 4 + len(fields)) + fields


@contextmanager
def server(answer: bytes) -> Iterator[str]:
    """Answer each request for a session in this way, and yield the host and port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    conn, _ = listener.accept()
                except OSError:
                    return
                with conn:
                    while conn.recv(4096) in ENCRYPTION:
                        conn.sendall(b"N")
                    conn.sendall(answer)
                    if answer == PASSWORD_WANTED and conn.recv(4096):
                        conn.sendall(error("28P01"))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"host=127.0.0.1 port={listener.getsockname()[1]} user=u passfile=/nothing"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(30)


@pytest.mark.parametrize(
    ("sqlstate", "expected"),
    [("28P01", True), ("28000", True), ("3D000", True),
     ("57P03", False), ("53300", False), ("42501", False), ("XX000", False)],
)  # fmt: skip
def test_the_sqlstate_decides(sqlstate: str, expected: bool) -> None:
    """A text that looks like one counts for nothing."""
    with server(error(sqlstate)) as conninfo:
        assert refuses(Server.resolve(conninfo)) is expected


@pytest.mark.parametrize("password", ["", "password=wrong"])
def test_a_password_that_is_missing_or_wrong_is_a_refusal(password: str) -> None:
    with server(PASSWORD_WANTED) as conninfo:
        assert refuses(Server.resolve(f"{conninfo} {password}"))


def test_a_server_that_is_gone_or_works_does_not_refuse(dsn: str) -> None:
    assert not refuses(Server.resolve(dsn))
    assert not refuses(Server.resolve("host=127.0.0.1 port=1"))
    assert not refuses(Server.resolve("service=missing"))


def test_each_of_several_hosts_must_refuse() -> None:
    """One that is gone may work again."""
    with server(error("57P03")) as one, server(error("28000")) as other:
        ports = [text.split("port=")[1].split()[0] for text in (one, other)]
        both = "host=127.0.0.1,127.0.0.1 user=u port="
        assert not refuses(Server.resolve(f"{both}{','.join(ports)}"))
        assert refuses(Server.resolve(f"{both}{ports[1]},{ports[1]}"))


def test_a_refusal_counts_from_its_first_failure_without_a_pause() -> None:
    now = [100.0]
    with server(error("28000")) as conninfo:
        refusal = Refusal(Server.resolve(conninfo), lambda: now[0])
        assert refusal.seconds() == 0
        now[0] += 61
        assert refusal.seconds() == 61
        refusal.end()
        assert refusal.seconds() == 0
    assert refusal.seconds() == -1
