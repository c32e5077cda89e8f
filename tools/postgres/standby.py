"""A streaming standby beside a throw-away PostgreSQL."""

from __future__ import annotations

import subprocess
from pathlib import Path

from postgres.programs import copy_programs, find_in_wheel
from postgres.server import START_TIMEOUT, Server

# A primary with these settings acknowledges a commit only after its standby has it.
SYNCHRONOUS = {"synchronous_standby_names": "*", "synchronous_commit": "on"}


class Standby(Server):
    """
    A standby of a running server, with its own temporary directory and socket, from `__enter__` to `__exit__`.

    It follows the primary until it is promoted, and it survives the primary. A connection string with the hosts of both
    and target_session_attrs=read-write leads to the one that is primary.
    """

    def __init__(self, primary: Server) -> None:
        super().__init__(bindir=primary.bindir)
        self._primary = primary

    def promote(self) -> None:
        """Promote the standby and wait until it is primary. Raises DevpgError if that takes over a minute."""
        done = subprocess.run(
            [self.bindir / "pg_ctl", "promote", "-D", self.datadir, "-t", str(int(START_TIMEOUT))],
            cwd=self.host,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            **self._account.popen,
        )
        if done.returncode != 0:
            raise self._failure(f"pg_ctl promote failed: {done.stderr.decode(errors='replace').strip()}")

    def _create(self) -> None:
        primary = self._primary
        connection = ["-h", primary.host, "-p", str(primary.port), "-U", primary.user]
        self._finish(str(self._pg_basebackup()), *connection, "-D", str(self.datadir), "-c", "fast", "--no-sync")
        # Not by pg_basebackup -R: a newer pg_basebackup writes settings that this server cannot read.
        self._configure(
            {
                "primary_conninfo": f"host='{primary.host}' port={primary.port} user={primary.user}",
                "unix_socket_directories": f'"{self.host}"',
                "synchronous_standby_names": "",
            }
        )
        signal = self.datadir / "standby.signal"
        signal.touch()
        self._account.own(signal)

    def _pg_basebackup(self) -> Path:
        if (ours := self.bindir / "pg_basebackup").exists():
            return ours
        # Some packages of the server lack it; the newest pg_basebackup works with every server.
        newest = find_in_wheel()
        reachable = newest if self._account.can_run(newest) else copy_programs(newest, Path(self.host) / "clients")
        return reachable / "pg_basebackup"
