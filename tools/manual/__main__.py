"""
Write the pages that are generated without a database, or check that they are up to date.

    PYTHONPATH=tools python -m manual [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from manual import command_line, llms, python_api, sqlstates
from manual.contents import ROOT

PAGES: Final[dict[str, Callable[[], str]]] = {
    "docs/python.md": python_api.page,
    "docs/cli.md": command_line.page,
    "docs/errors.md": sqlstates.page,
    "llms.txt": llms.page,
}


def main() -> None:
    """Write the pages; with --check, exit with a message that names one that has changed."""
    for name, page in PAGES.items():
        path, text = ROOT / name, page()
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{name} is not what the code makes: call make reference")


if __name__ == "__main__":
    main()
