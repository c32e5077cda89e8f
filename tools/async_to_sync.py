"""
Write the synchronous modules of the driver, each from the asynchronous one.

The two differ in the words async and await, and in names; so do comments and docstrings. With --check nothing is
written, and the exit code is 1 if a module differs from what would be.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "python/src/pgq"
RUFF: Final = Path(sysconfig.get_path("scripts")) / "ruff"
MODULES: Final = ("queue", "waiting")
NAMES: Final = {
    "AsyncConnection": "Connection",
    "AsyncCursor": "Cursor",
    "AsyncExitStack": "ExitStack",
    "AsyncIterator": "Iterator",
    "AsyncQueue": "Queue",
    "AsyncRowFactory": "RowFactory",
    "asynccontextmanager": "contextmanager",
    "check_async_connection": "check_connection",
    "enter_async_context": "enter_context",
    "queue_async": "queue",
    "wait_readable_async": "wait_readable",
    "waiting_async": "waiting",
}
WORDS: Final = re.compile(rf"\b(?:(?:async|await) |({'|'.join(NAMES)})\b)")


def synchronous(name: str) -> str:
    """Return the synchronous form of a module."""
    text = (SOURCE / f"{name}_async.py").read_text(encoding="utf-8")
    docstring, rest = WORDS.sub(lambda found: NAMES.get(found[1], ""), text).split("\n", 1)
    made = f"# Made from {name}_async.py by tools/async_to_sync.py; change that."
    return _ruff("format", _ruff("check", f"{docstring}\n\n{made}\n{rest}"))


def _ruff(command: str, text: str) -> str:
    """Sort the imports of a module, or format it."""
    options = ["--select=I", "--fix", "--quiet"] if command == "check" else []
    files: list[str | Path] = [
        "--config",
        ROOT / "python/pyproject.toml",
        "--no-cache",
        "--stdin-filename",
        SOURCE / "made.py",
        "-",
    ]
    done = subprocess.run(
        [RUFF, command, *options, *files], input=text, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    return done.stdout


def main() -> None:
    """Write the modules, or compare them."""
    for name in MODULES:
        path = SOURCE / f"{name}.py"
        text = synchronous(name)
        if sys.argv[1:] != ["--check"]:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(ROOT)} is not what {name}_async.py makes: call tools/async_to_sync.py")


if __name__ == "__main__":
    main()
