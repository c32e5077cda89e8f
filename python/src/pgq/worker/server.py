"""Where a worker connects: resolved once, at its start, because its handlers may change what libpq looks at."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgq.process.forks import withheld

# How soon the worker notices that the server is unreachable, unless the DSN says otherwise.
REACHABLE: Final = {
    "connect_timeout": "10",
    "keepalives_idle": "3",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "9000",
}
# A value that no option has.
INVALID: Final = "unresolved"
# Options that are paths.
FILES: Final = frozenset(("passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir"))
# What libpq and its libraries read from the environment, and no option of a connection string replaces.
ENVIRONMENT: Final = (
    "HOME",
    "KRB5CCNAME",
    "PGDATESTYLE",
    "PGGEQO",
    "PGSERVICEFILE",
    "PGSYSCONFDIR",
    "PGTZ",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
)
environment_lock: Final = threading.Lock()


@dataclass(frozen=True)
class Server:
    """
    A connection string with all options that libpq would take from elsewhere, and the variables that it reads besides.

    Both may hold a password, so neither is shown.
    """

    conninfo: str = field(repr=False)
    environment: Mapping[str, str | None] = field(repr=False)

    @classmethod
    def resolve(cls, conninfo: str) -> Server:
        """Complete a connection string with what libpq takes from the environment, a service file or its defaults."""
        environment = {name: os.environ.get(name) for name in ENVIRONMENT}
        for name in ("PGSERVICEFILE", "PGSYSCONFDIR"):
            if path := environment[name]:
                environment[name] = os.path.abspath(path)
        try:
            options = _options(conninfo, "sslmode")
            options["sslmode"] = _options(conninfo, "target_session_attrs")["sslmode"]
        except psycopg.ProgrammingError:
            # The first connection raises this error, or says that there is no such service.
            return cls(conninfo, environment)
        # An option without a value must get none later. Nor can it be given empty: to some that is a value.
        environment |= {option.envvar: os.environ.get(option.envvar) for option in options.values() if option.is_unset}
        given = {name: option.value for name, option in options.items() if option.value is not None}
        # The service is resolved, and must not be looked up again, unless libpq does that in any case.
        service = given.pop("service", None)
        given.pop("servicefile", None)
        environment["PGSERVICE"] = service if service == os.environ.get("PGSERVICE") else None
        given.setdefault("passfile", os.path.expanduser("~/.pgpass"))
        for name in FILES & given.keys():
            # Neither sslrootcert=system nor the key of an engine is a file.
            if given[name] not in {"", "system"} and ":" not in given[name]:
                given[name] = os.path.abspath(given[name])
        return cls(make_conninfo(**given), environment)

    def connect(
        self, name: str, connection_class: type[psycopg.Connection[Any]] | None = None
    ) -> psycopg.Connection[Any]:
        """Open a connection in autocommit mode that notices within some ten seconds that its server is unreachable."""
        connect = psycopg.connect if connection_class is None else connection_class.connect
        given = conninfo_to_dict(self.conninfo)
        with self.restored_environment():
            return withheld(
                lambda: connect(
                    make_conninfo(
                        self.conninfo, **{key: value for key, value in REACHABLE.items() if not given.get(key)}
                    ),
                    autocommit=True,
                    application_name=f"pgq {name}"[:63],
                    client_encoding="utf8",
                )
            )

    @contextmanager
    def restored_environment(self) -> Iterator[None]:
        """
        Give libpq the environment of the start, where a handler has changed it.

        Meanwhile a handler in another thread does not see its change.
        """
        with environment_lock:
            changed = {name: now for name, then in self.environment.items() if (now := os.environ.get(name)) != then}
            if changed:
                _set_environment({name: self.environment[name] for name in changed})
                try:
                    yield
                finally:
                    _set_environment(changed)
                return
        yield


class _Option(NamedTuple):
    """The value of an option, and the variable of the environment that libpq reads where it has none."""

    value: str | None
    envvar: str

    @property
    def is_unset(self) -> bool:
        """Whether the environment could give it a value."""
        return self.value is None and bool(self.envvar)


def _options(conninfo: str, invalid: str) -> dict[str, _Option]:
    """
    Return the options of a connection, as libpq resolves them.

    The option ``invalid`` gets a value that libpq refuses once it has resolved the others, so that it does not connect.
    Raises ProgrammingError if libpq does not get so far.
    """
    pgconn = psycopg.pq.PGconn.connect_start(make_conninfo(conninfo, **{invalid: INVALID}).encode())
    try:
        options = {
            option.keyword.decode(): _Option(
                None if option.val is None else option.val.decode(), (option.envvar or b"").decode()
            )
            for option in pgconn.info
        }
    finally:
        pgconn.finish()
    if options[invalid].value != INVALID:
        raise psycopg.ProgrammingError("libpq cannot resolve the connection string")
    return options


def _set_environment(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
