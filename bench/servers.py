"""A second PostgreSQL, of another version, beside the one that libpq's variables name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from harness import Unavailable
from postgres.programs import DevpgError
from postgres.server import Server
from postgres.versions import find_server


@contextmanager
def other_server(major: str) -> Iterator[None]:
    """
    Let libpq's variables name a durable server of this version, which is removed at the end.

    Raises Unavailable if it cannot be fetched.
    """
    try:
        bindir = find_server(major)
    except DevpgError as error:
        raise Unavailable(str(error)) from error
    with Server(bindir, durable=True) as server:
        # PATH stays: this server's directory has no pgbench.
        names = {name: text for name, text in server.env.items() if name.startswith("PG")}
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(names)
        try:
            yield
        finally:
            for name, text in before.items():
                if text is None:
                    del os.environ[name]
                else:
                    os.environ[name] = text
