"""Noticing that the code has changed, for development."""

from __future__ import annotations

import os
from pathlib import Path


class Files:
    """The Python files below a directory, but those of hidden directories and virtual environments."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._seen = self._look()

    def changed(self) -> list[str]:
        """The files that were changed, made or removed since the last look."""
        before, self._seen = self._seen, self._look()
        return sorted(
            os.path.relpath(path, self.root)
            for path in before.keys() | self._seen.keys()
            if before.get(path) != self._seen.get(path)
        )

    def _look(self) -> dict[str, int]:
        seen: dict[str, int] = {}
        for directory, below, files in os.walk(self.root):
            below[:] = [
                name
                for name in below
                if not name.startswith((".", "__")) and not Path(directory, name, "pyvenv.cfg").exists()
            ]
            for name in files:
                if name.endswith(".py"):
                    path = os.path.join(directory, name)
                    try:
                        seen[path] = os.stat(path).st_mtime_ns
                    except FileNotFoundError:
                        continue
        return seen
