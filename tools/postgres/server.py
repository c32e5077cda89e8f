"""A throw-away PostgreSQL server, for any account including root. It listens on a Unix socket only."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Literal, Self

from postgres.children import GRACE, Handlers, ignored, in_child, masked, raise_on_signals, restore
from postgres.programs import Account, DevpgError, check_programs, copy_programs, find_bindir, is_separate

PORT = 5432
START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
THROWAWAY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

Mode = Literal["fast", "immediate"]


def bare_environ() -> dict[str, str]:
    """Return the environment without libpq's and the server's variables, which may name another server."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PG") or k.startswith("PGQ_")}


class Server:
    """
    One PostgreSQL in a temporary directory, from `__enter__` to `__exit__`.

    Enter, start and restart it in a thread that outlives it: on Linux the server dies with the thread that forked it,
    so that a killed program leaves no server behind. If entered in the main thread, it turns SIGTERM, SIGINT and SIGHUP
    into the exception Terminated, unless the program handles them itself.

    Only a `durable` server, which keeps fsync and synchronous_commit on, keeps every committed transaction after a
    crash. A server with `own_programs` runs a copy of the installation, if that has its own directory; an extension
    added to the copy is visible to this server only.
    """

    host: str
    port: int = PORT
    user: str = "postgres"
    dbname: str = "postgres"
    bindir: Path
    datadir: Path
    logfile: Path

    def __init__(
        self,
        bindir: Path | None = None,
        durable: bool = False,
        settings: Mapping[str, str] = MappingProxyType({}),
        own_programs: bool = False,
    ) -> None:
        self._wanted_bindir = bindir
        self._own_programs = own_programs
        self._initdb_options = [] if durable else ["--no-sync"]
        self._settings = ({} if durable else THROWAWAY) | dict(settings)
        self._tmp: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._handlers: Handlers = []

    @property
    def env(self) -> dict[str, str]:
        """The environment variables by which libpq and a shell find this server; add them to `bare_environ()`."""
        path = os.environ.get("PATH", os.defpath)
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGDATABASE": self.dbname,
            "PATH": f"{self.bindir}{os.pathsep}{path}",
        }

    def __enter__(self) -> Self:
        """Create the cluster and start it. Raises DevpgError with the end of the log if that fails."""
        self._owner = os.getpid()
        self._handlers = raise_on_signals()
        # For a signal that arrives just before `__exit__` begins.
        atexit.register(self._close)
        try:
            self._prepare()
            self._create()
            self.start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the server and delete its directory."""
        self._close()

    def start(self) -> None:
        """Start the server and wait until it accepts connections. Raises DevpgError if that takes over a minute."""
        if self._tmp is None:
            raise DevpgError("the server has no data directory; enter its context first")
        if self._process is not None and self._process.poll() is None:
            raise DevpgError("the server is already running; stop it first")
        process = self._spawn("postgres", "-D", str(self.datadir))
        deadline = time.monotonic() + START_TIMEOUT
        while not self._ready(process.pid):
            if process.poll() is not None:
                raise self._failure(f"postgres exited with status {process.returncode} while starting")
            if time.monotonic() > deadline:
                raise self._failure(f"postgres was not ready after {START_TIMEOUT:.0f} s")
            time.sleep(0.01)

    def stop(self, mode: Mode = "fast") -> None:
        """Stop the server and keep its data. 'immediate' is a crash: the next start recovers."""
        process = self._process
        first = signal.SIGINT if mode == "fast" else signal.SIGQUIT
        for signum, patience in ((first, STOP_TIMEOUT), (signal.SIGQUIT, GRACE), (signal.SIGKILL, GRACE)):
            if process is None or process.poll() is not None:
                break
            process.send_signal(signum)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
        self._process = None

    def restart(self, mode: Mode = "fast") -> None:
        """Stop the server in the given mode and start it again on the same data and socket."""
        self.stop(mode)
        self.start()

    def _prepare(self) -> None:
        bindir = (self._wanted_bindir or find_bindir()).absolute()
        check_programs(bindir)
        self._account = Account()
        base = self._account.temporary_base(f"pgq-12345678/.s.PGSQL.{PORT}")
        with masked():
            self._tmp = tmp = Path(tempfile.mkdtemp(prefix="pgq-", dir=base))
        self._account.own(tmp)
        self.host, self.datadir, self.logfile = str(tmp), tmp / "data", tmp / "log"

        copy = self._own_programs and is_separate(bindir)
        in_place = self._account.can_run(bindir) and not copy
        self.bindir = bindir if in_place else copy_programs(bindir, tmp / "copy")
        if not self._account.can_run(self.bindir):
            raise DevpgError(f"cannot run a copy of {bindir} in {base}; set TMPDIR to another place")

    def _create(self) -> None:
        options = ["-A", "trust", "-U", self.user, "--encoding=UTF8", "--locale=C", *self._initdb_options]
        self._finish("initdb", "-D", str(self.datadir), *options)
        self._configure(
            {
                "listen_addresses": "",
                "port": str(self.port),
                "unix_socket_directories": f'"{self.host}"',
                "unix_socket_permissions": "0700",
                "max_connections": "100",
                "shared_buffers": "128MB",
                "timezone": "UTC",
                "log_timezone": "UTC",
                **self._settings,
            }
        )

    def _configure(self, settings: Mapping[str, str]) -> None:
        # In the file: ALTER SYSTEM cannot override settings of the command line.
        with (self.datadir / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.writelines("{} = '{}'\n".format(name, value.replace("'", "''")) for name, value in settings.items())

    def _finish(self, program: str, *arguments: str) -> None:
        if status := self._spawn(program, *arguments).wait():
            raise self._failure(f"{program} exited with status {status}")

    def _spawn(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self.logfile.open("ab") as log, masked():
            self._process = subprocess.Popen(
                [str(self.bindir / program), *arguments],
                cwd=self.host,
                env=bare_environ() | {"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=in_child(signal.SIGQUIT),
                **self._account.popen,
            )
        return self._process

    def _ready(self, pid: int) -> bool:
        # The eighth line is the server's state. pg_ctl and pg_isready may not be installed.
        try:
            lines = (self.datadir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _failure(self, what: str) -> DevpgError:
        tail = self.logfile.read_text(errors="replace").splitlines()[-20:]
        return DevpgError("\n    ".join([f"{what}; the log ends:", *tail]))

    def _close(self) -> None:
        # A forked process, as by os.fork in a test, inherits this object, but must not stop the server.
        if os.getpid() != self._owner:
            return
        with ignored():
            self.stop("immediate")
            # A killed initdb may have left a child that still writes a file.
            for _ in range(50):
                if self._tmp is None:
                    break
                shutil.rmtree(self._tmp, ignore_errors=True)
                if not self._tmp.exists():
                    self._tmp = None
                else:
                    time.sleep(0.1)
        restore(self._handlers)
        atexit.unregister(self._close)
