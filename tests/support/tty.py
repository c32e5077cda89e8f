"""A pseudo-terminal, for what commands do on terminals only."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping
from typing import BinaryIO, Literal

from support.processes import COMMAND, Done


def on_terminal(
    *arguments: str,
    streams: Literal["stdout", "stderr", "both"] = "both",
    columns: int = 80,
    environment: Mapping[str, str] | None = None,
    stdin: BinaryIO | None = None,
) -> Done:
    """
    Run the installed program with a terminal of so many columns for one stream or both; of both, all is in stdout.

    The environment is that of the test with these changes, without COLUMNS and NO_COLOR.
    """
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
    process = subprocess.Popen(
        [COMMAND, *arguments],
        stdin=subprocess.DEVNULL if stdin is None else stdin,
        stdout=subprocess.PIPE if streams == "stderr" else there,
        stderr=subprocess.PIPE if streams == "stdout" else there,
        env=variables | dict(environment or {}),
    )
    os.close(there)
    shown = b""
    # A terminal whose other side is closed is an error on Linux.
    try:
        while part := os.read(here, 1 << 16):
            shown += part
    except OSError:
        pass
    os.close(here)
    out, err = (text.decode() for text in (part or b"" for part in process.communicate(timeout=60)))
    text = shown.decode().replace("\r\n", "\n")
    return Done(process.returncode, out if streams == "stderr" else text, text if streams == "stderr" else err)
