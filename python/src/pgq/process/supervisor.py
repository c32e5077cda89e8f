"""A worker in several processes: the supervisor starts, watches and replaces them, and never touches a job."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

from pgq.process.health import DRAINED, READY, REFUSED, UNWELL, UNWELL_AFTER, WELL, Health, notify_systemd
from pgq.process.logs import logger
from pgq.process.signals import STOP

# Variables by which a service manager addresses the supervisor; the children do not inherit them.
SERVICE_MANAGER = frozenset(("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"))
# The environment variable with the descriptor of a child's end of its lifeline.
LIFELINE = "PGQ_LIFELINE"
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
# A child that ran for this many seconds resets the restart backoff.
LONG_LIFE = 10.0
# When so many processes in a row have ended in every place before they worked, none is started again.
FAILED_STARTS = 3
# The exit code of a process without a connection, whose successor may find one.
NO_CONNECTION = 3
# Seconds for which the server may refuse the connections of children before the supervisor ends.
REFUSED_FOR = 60.0
# Seconds after its grace for which a child may take to end before it is killed.
KILL_AFTER_GRACE = 10.0
POLL = 0.5


@dataclass
class Child:
    """One of the worker processes; its successors take the same place."""

    process: subprocess.Popen[bytes] | None = None
    lifeline: socket.socket | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    pause: float = FIRST_PAUSE
    messages: bytes = b""
    # How many processes in a row have ended before they worked, for another reason than the connection.
    failed_starts: int = 0
    # When the server began to refuse the connections of processes in this place.
    refused_since: float = float("inf")
    # Until when the place counts as well.
    well_until: float = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether the current process works or has worked."""
        return READY in self.messages

    @property
    def is_drained(self) -> bool:
        """Whether the process has ended because there was nothing left to do."""
        return DRAINED in self.messages


class Supervisor:
    """
    Run a command in several processes until stopped, or until all of them are drained.

    Each child has one end of a socket pair, its lifeline: the child sends READY, DRAINED and its health through it, and
    stops when the other end closes because its supervisor is gone. Children have process groups of their own: a Ctrl-C
    reaches them through their supervisor, and once.
    """

    def __init__(self, command: Sequence[str], processes: int, *, grace: float, health: Health | None = None) -> None:
        self.command = list(command)
        self.grace = grace
        self.health = health or Health(None)
        self.children = [Child(well_until=monotonic() + UNWELL_AFTER) for _ in range(processes)]
        self.stopped_by: list[int] = []
        self._kill_at = float("inf")
        self._tell_at = 0.0
        self._exit_code: int | None = None
        self._all_were_ready = False
        self._any_was_ready = False

    def run(self) -> int:
        """Supervise, and return the exit code."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (*STOP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        try:
            while True:
                code = self.turn()
                if code is not None:
                    return code
                self.wait(reader)
        finally:
            notify_systemd("STOPPING=1")
            self.kill()

    def turn(self) -> int | None:
        """Check each child once; return the exit code of the supervisor when it is to end."""
        for child in self.children:
            code = self.check(child)
            if code is not None:
                return code
        if monotonic() > self._kill_at:
            self.kill()
        self.tell_health()
        if any(child.process is not None for child in self.children):
            return None
        if self._exit_code is not None:
            return self._exit_code
        if self.stopped_by:
            return 0 if len(self.stopped_by) == 1 else 128 + self.stopped_by[-1]
        return 0 if all(child.is_drained for child in self.children) else None

    def tell_health(self) -> None:
        """Tell now and then whether all processes are well, once all of them have begun to work."""
        now = monotonic()
        if self._all_were_ready and now >= self._tell_at:
            self._tell_at = now + self.health.every
            self.health.tell(all(now <= child.well_until for child in self.children))

    def check(self, child: Child) -> int | None:
        """Read a child's messages, notice its end, and start its successor; return an exit code as ``on_exit`` does."""
        self.read(child)
        if child.process is not None and (status := child.process.poll()) is not None:
            self.read(child)
            code = self.on_exit(child, status)
            if code is not None:
                return code
        if child.process is None and not self.is_ending and not child.is_drained and monotonic() >= child.start_at:
            try:
                self.start(child)
            except OSError as error:
                child.failed_starts += 1
                if not self._any_was_ready or self.none_starts:
                    raise
                # The machine may be out of processes for a moment, or Python be replaced; the other children go on.
                logger.error("a worker process does not start, next try in %.1f s: %s", child.pause, error)
                self.delay(child)
        return None

    @property
    def none_starts(self) -> bool:
        """Whether so many processes in a row have ended in every place before they worked."""
        return all(child.failed_starts >= FAILED_STARTS for child in self.children)

    @property
    def is_ending(self) -> bool:
        """Whether no process is started any longer."""
        return bool(self.stopped_by) or self._exit_code is not None

    def start(self, child: Child) -> None:
        """Start a process."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        env = {name: value for name, value in os.environ.items() if name not in SERVICE_MANAGER}
        try:
            with theirs:
                child.process = subprocess.Popen(
                    self.command,
                    env=env | {LIFELINE: str(theirs.fileno())},
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except OSError:
            ours.close()
            raise
        child.lifeline, child.messages, child.started_at = ours, b"", monotonic()

    def read(self, child: Child) -> None:
        """Read what a child has sent."""
        if child.lifeline is None:
            return
        with contextlib.suppress(BlockingIOError, ConnectionError):
            message = child.lifeline.recv(64)
            if WELL in message or UNWELL in message:
                is_well = message.rfind(WELL) > message.rfind(UNWELL)
                child.well_until = monotonic() + UNWELL_AFTER if is_well else 0.0
            child.messages += message.replace(WELL, b"").replace(UNWELL, b"")
            if not message:
                child.lifeline.close()
                child.lifeline = None
        self._any_was_ready |= child.is_ready
        if not self._all_were_ready and all(one.is_ready for one in self.children):
            self._all_were_ready = True
            notify_systemd("READY=1")

    def on_exit(self, child: Child, status: int) -> int | None:
        """
        Let the successor of a process that has ended start, at once or later.

        Return the exit code for the supervisor if no child has ever worked and this one has failed: it has printed the
        reason, such as a module that cannot be imported. Return one, too, when in each place FAILED_STARTS processes in
        a row have ended before they worked, as when each one crashes at the import of a module.
        """
        assert child.process is not None
        pid = child.process.pid
        if child.lifeline is not None:
            child.lifeline.close()
        child.process = child.lifeline = None
        if self.is_ending or child.is_drained:
            return None
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
        if status == 0 and child.is_ready:
            child.start_at, child.pause, child.failed_starts = monotonic(), FIRST_PAUSE, 0
            return None
        if status > 0 and not self._any_was_ready:
            return status
        if REFUSED in child.messages:
            child.refused_since = min(child.refused_since, monotonic())
            # A process that has worked has waited for as long itself.
            if child.is_ready or monotonic() - child.refused_since >= REFUSED_FOR:
                self.end(status)
                return None
        else:
            child.refused_since = float("inf")
        if child.is_ready:
            child.failed_starts = 0
        elif status != NO_CONNECTION:
            child.failed_starts += 1
        if self.none_starts:
            logger.error("worker process %d %s before it worked, as those before it: none is started again", pid, how)
            return max(1, status)
        if monotonic() - child.started_at > LONG_LIFE:
            child.pause = FIRST_PAUSE
        logger.error("worker process %d %s, the next one starts in %.1f s", pid, how, child.pause)
        self.delay(child)
        return None

    def delay(self, child: Child) -> None:
        """Let the next process in this place start after a pause, which doubles each time."""
        child.start_at = monotonic() + child.pause
        child.pause = min(2 * child.pause, LONGEST_PAUSE)

    def end(self, code: int) -> None:
        """Stop all children, and let the supervisor end with this exit code once they have ended."""
        self._exit_code = code
        self._kill_at = monotonic() + self.grace + KILL_AFTER_GRACE
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Send a signal to all children."""
        for child in self.children:
            if child.process is not None:
                child.process.send_signal(number)

    def kill(self) -> None:
        """Kill all children."""
        for child in self.children:
            if child.process is not None:
                child.process.kill()
                child.process.wait()

    def wait(self, reader: socket.socket) -> None:
        """Sleep until a signal arrives, a child sends a message, or it is time for the next turn."""
        lifelines = [child.lifeline for child in self.children if child.lifeline is not None]
        select.select([reader, *lifelines], [], [], min(POLL, self.health.every))
        with contextlib.suppress(BlockingIOError):
            for number in reader.recv(4096):
                if number in STOP:
                    self.stopped_by.append(number)
                    self._kill_at = monotonic() + self.grace + KILL_AFTER_GRACE
                    self.signal(signal.SIGTERM)
