"""A worker in several processes: they are started, watched and replaced here, and never is a job touched."""

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

from pgq.process import notify as service
from pgq.process.signals import STOP
from pgq.reload import Files
from pgq.worker.joblog import logger

# In the environment of a child: the descriptor of its end of the lifeline.
LIFELINE = "PGQ_LIFELINE"
READY, DRAINED = b"R", b"D"
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
# Who has lived for so many seconds is replaced after the first pause again.
LONG_LIFE = 10.0
# How long after its grace a child may take to end, before it is killed.
PATIENCE = 10.0
LOOK_EVERY = 0.5


@dataclass
class Place:
    """The place of one child, which its successors take over."""

    process: subprocess.Popen[bytes] | None = None
    lifeline: socket.socket | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    pause: float = FIRST_PAUSE
    said: bytes = b""

    @property
    def is_ready(self) -> bool:
        """Whether the child that is there now works, or has worked."""
        return READY in self.said

    @property
    def is_drained(self) -> bool:
        """Whether there is nothing left to do for this place."""
        return DRAINED in self.said


class Supervisor:
    """
    Run a command in several processes until stopped, or until all of them have nothing left to do.

    Each has one end of a socket pair, through which it says that it works and, before it ends, that it is done for
    good, and by whose end it notices that its supervisor is gone. Children are in process groups of their own: a Ctrl-C
    reaches them through their supervisor, and once.
    """

    def __init__(self, command: Sequence[str], processes: int, *, grace: float, files: Files | None = None) -> None:
        self.command = list(command)
        self.grace = grace
        self.files = files
        self.places = [Place() for _ in range(processes)]
        self.stopped_by: list[int] = []
        self._kill_at = float("inf")
        self._were_ready = False
        self._have_worked = False

    def run(self) -> int:
        """Supervise; the answer is the exit code."""
        ear, mouth = socket.socketpair()
        ear.setblocking(False)
        mouth.setblocking(False)
        signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
        for number in (*STOP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        try:
            while True:
                code = self.turn()
                if code is not None:
                    return code
                self.wait(ear)
        finally:
            service.notify("STOPPING=1")
            self.kill()

    def turn(self) -> int | None:
        """Look after each place; the answer is the exit code, once there is one."""
        for place in self.places:
            self.listen(place)
            if place.process is not None and (status := place.process.poll()) is not None:
                self.listen(place)
                code = self.bury(place, status)
                if code is not None:
                    return code
            if place.process is None and not self.stopped_by and not place.is_drained and monotonic() >= place.start_at:
                self.start(place)
        if self.files is not None and not self.stopped_by and (changed := self.files.changed()):
            logger.info("reloading: %s", ", ".join(changed))
            self.signal(signal.SIGTERM)
        if monotonic() > self._kill_at:
            self.kill()
        if any(place.process is not None for place in self.places):
            return None
        if self.stopped_by:
            return 0 if len(self.stopped_by) == 1 else 128 + self.stopped_by[-1]
        return 0 if all(place.is_drained for place in self.places) else None

    def start(self, place: Place) -> None:
        """Put a new child into a place."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        env = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        with theirs:
            place.process = subprocess.Popen(
                self.command,
                env=env | {LIFELINE: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        place.lifeline, place.said, place.started_at = ours, b"", monotonic()

    def listen(self, place: Place) -> None:
        """Take in what a child has said."""
        if place.lifeline is None:
            return
        with contextlib.suppress(BlockingIOError, ConnectionError):
            said = place.lifeline.recv(64)
            place.said += said
            if not said:
                place.lifeline.close()
                place.lifeline = None
        self._have_worked |= place.is_ready
        if not self._were_ready and all(one.is_ready for one in self.places):
            self._were_ready = True
            service.notify("READY=1")

    def bury(self, place: Place, status: int) -> int | None:
        """A child has ended: replace it, at once or later. An exit code, if none of them could ever work."""
        assert place.process is not None
        pid = place.process.pid
        if place.lifeline is not None:
            place.lifeline.close()
        place.process = place.lifeline = None
        if self.stopped_by or place.is_drained:
            return None
        if status == 0:
            place.start_at, place.pause = monotonic(), FIRST_PAUSE
            return None
        if status > 0 and self.files is None and not self._have_worked:
            # It has said itself what is wrong, such as a module that cannot be imported.
            return status
        if monotonic() - place.started_at > LONG_LIFE:
            place.pause = FIRST_PAUSE
        place.start_at = monotonic() + place.pause
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
        logger.error("worker process %d %s, the next one starts in %.1f s", pid, how, place.pause)
        place.pause = min(2 * place.pause, LONGEST_PAUSE)
        return None

    def signal(self, number: int) -> None:
        """Send a signal to all children."""
        for place in self.places:
            if place.process is not None:
                place.process.send_signal(number)

    def kill(self) -> None:
        """Have no children any more."""
        for place in self.places:
            if place.process is not None:
                place.process.kill()
                place.process.wait()

    def wait(self, ear: socket.socket) -> None:
        """Sleep until a signal comes, a child says something, or it is time for something."""
        lifelines = [place.lifeline for place in self.places if place.lifeline is not None]
        select.select([ear, *lifelines], [], [], LOOK_EVERY)
        with contextlib.suppress(BlockingIOError):
            for number in ear.recv(4096):
                if number in STOP:
                    self.stopped_by.append(number)
                    self._kill_at = monotonic() + self.grace + PATIENCE
                    self.signal(signal.SIGTERM)
