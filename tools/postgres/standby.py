"""A streaming standby beside a throw-away PostgreSQL."""

from __future__ import annotations

import subprocess
from pathlib import Path

from postgres.programs import copy_programs, find_in_wheel
from postgres.server import START_TIMEOUT, Server

# Settings of a primary whose acknowledged commits outlive it in its standby: without one it acknowledges none.
SYNCHRONOUS = {"synchronous_standby_names": "*", "synchronous_commit": "on"}


class Standby(Server):
    """
    A standby of a running server, with a temporary directory and socket of its own, from `__enter__` to `__exit__`.

    It follows until it is promoted, and outlives the primary. A way to whichever of the two is the primary names the
    hosts of both, with target_session_attrs=read-write.
    """

    def __init__(self, primary: Server) -> None:
        super().__init__(bindir=primary.bindir)
        self._primary = primary

    def promote(self) -> None:
        """Make it a primary, and wait until it is one. Raises DevpgError if it does not within a minute."""
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
        way = ["-h", primary.host, "-p", str(primary.port), "-U", primary.user]
        self._finish(str(self._pg_basebackup()), *way, "-D", str(self.datadir), "-c", "fast", "--no-sync")
        # Not by pg_basebackup -R: a newer one writes what this server cannot read.
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
        # Some distributions of the server come without; the newest one serves all.
        newest = find_in_wheel()
        reachable = newest if self._account.can_run(newest) else copy_programs(newest, Path(self.host) / "clients")
        return reachable / "pg_basebackup"
