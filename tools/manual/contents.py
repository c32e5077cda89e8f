"""The contents of the documentation, as docs/README.md lists them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CONTENTS: Final = ROOT / "docs/README.md"
ENTRY: Final = re.compile(r"^- \[(?P<title>[^\]]+)\]\((?P<link>[^)]+)\)(?P<about>.*(?:\n  .*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """A page: its title, its path from the root of the repository, and what the list says about it."""

    title: str
    path: str
    about: str


@dataclass(frozen=True)
class Part:
    """A section of the contents."""

    title: str
    entries: tuple[Entry, ...]


def parts() -> list[Part]:
    """Return the sections of the contents, in their order."""
    sections = re.split(r"^## ", CONTENTS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return [Part(section.splitlines()[0], tuple(_entries(section))) for section in sections]


def _entries(section: str) -> list[Entry]:
    return [
        Entry(found["title"], _path(found["link"]), re.sub(r"\s+", " ", found["about"]).removeprefix(":").strip())
        for found in ENTRY.finditer(section)
    ]


def _path(link: str) -> str:
    """Return the path of a link, which begins in docs/, from the root."""
    return (CONTENTS.parent / link).resolve().relative_to(ROOT.resolve()).as_posix()
