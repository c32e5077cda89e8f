"""The keys of a terminal, one by one."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SEQUENCES: Final = {
    "\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down", "\x1b[5~": "pageup", "\x1b[6~": "pagedown",
    "\x1b[H": "home", "\x1b[F": "end", "\x1b[1~": "home", "\x1b[4~": "end", "\x1bOH": "home", "\x1bOF": "end",
    "\x1b[Z": "backtab", "\x1b": "esc", "\t": "tab", "\r": "enter", "\n": "enter", "\x7f": "backspace",
    "\x08": "backspace", "\x03": "ctrl-c", "\x04": "ctrl-d",
}  # fmt: skip


@contextmanager
def keys_unbuffered() -> Iterator[None]:
    """Let the terminal deliver each key at once, and not show it; restore it afterwards."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def keys(timeout: float) -> list[str]:
    """
    Return the keys that were pressed, by name, after waiting for the first for so many seconds.

    Raises EOFError when the terminal is gone.
    """
    if not select.select([sys.stdin], [], [], timeout)[0]:
        return []
    data = os.read(sys.stdin.fileno(), 1024)
    if not data:
        raise EOFError
    return list(decoded(data.decode(errors="replace")))


def decoded(text: str) -> Iterator[str]:
    """Return the names of keys. A terminal sends the sequence of a key in one piece; unknown ones are left out."""
    while text:
        known = max((s for s in SEQUENCES if text.startswith(s)), key=len, default=None)
        if known == "\x1b" and len(text) > 1:
            # A sequence that is not known ends with a letter or a tilde.
            end = next((n for n, c in enumerate(text[2:], 2) if c.isalpha() or c == "~"), len(text) - 1)
            text = text[end + 1 :]
            continue
        key = known or text[0]
        yield SEQUENCES.get(key, key)
        text = text[len(key) :]
