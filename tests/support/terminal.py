"""A program in a terminal, whose screen a test reads and whose keys it presses."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from functools import partial

import pyte

PATIENCE = 30.0


class Terminal:
    """A program behind a pseudo terminal of a certain size, and the screen as the terminal shows it."""

    def __init__(self, command: Sequence[str], *, columns: int = 80, lines: int = 24, env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._set_size(columns, lines)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        # A size that the runner of the tests has set would count more than that of the terminal.
        around = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=partial(os.login_tty, slave),
            env=around | {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"} | env,
        )  # fmt: skip

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self.slave)

    @property
    def lines(self) -> list[str]:
        """The lines of the screen."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The screen."""
        return "\n".join(self.lines)

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of the terminal."""
        self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def wait(self, condition: str | Callable[[Terminal], bool]) -> None:
        """Wait until the screen has a text, or fulfils a condition."""
        deadline = time.monotonic() + PATIENCE
        while not (condition in self.text if isinstance(condition, str) else condition(self)):
            assert time.monotonic() < deadline, f"the screen has never been as expected:\n{self.text}"
            self._read()

    def ended(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"the program goes on:\n{self.text}"
            self._read()
        while self._read():
            pass
        return self.process.returncode

    def _read(self) -> bool:
        """Feed the screen with what the program has written; return whether there was anything."""
        if not select.select([self._master], [], [], 0.05)[0]:
            return False
        self._stream.feed(os.read(self._master, 65536))
        return True

    def _set_size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
