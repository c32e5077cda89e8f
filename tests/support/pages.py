"""The pages of the documentation, their code blocks, and their links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.paths import ROOT

NOT_RUN = re.compile(r"<!-- not run: .+ -->")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; ``runs`` is false below a comment ``<!-- not run: REASON -->``."""

    language: str
    text: str
    runs: bool


@dataclass(frozen=True)
class Page:
    """A Markdown file, named by its path from the root of the repository."""

    name: str

    @property
    def path(self) -> Path:
        """The file."""
        return ROOT / self.name

    @property
    def text(self) -> str:
        """The source of the page."""
        return self.path.read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        """The page without its fenced blocks."""
        return re.sub(r"^```.*?^```$", "", self.text, flags=re.MULTILINE | re.DOTALL)

    def all_blocks(self) -> Iterator[Block]:
        """Return the fenced blocks, in order."""
        found = re.finditer(r"^([^\n]*)\n```(\w*)\n(.*?)^```$", self.text, flags=re.MULTILINE | re.DOTALL)
        for before, language, text in (match.groups() for match in found):
            yield Block(language, text, NOT_RUN.fullmatch(before) is None)

    def blocks(self, language: str) -> list[str]:
        """Return the blocks of a language that run, in order."""
        return [block.text for block in self.all_blocks() if block.runs and block.language == language]

    def section(self, title: str) -> str:
        """Return a section of the second level, without its heading."""
        return self.text.split(f"\n## {title}\n")[1].split("\n## ")[0]

    def anchors(self) -> set[str]:
        """Return the fragments of links to the headings of this page, as GitHub and MyST derive them."""
        headings = re.findall(r"^#+ (.*)$", self.prose, flags=re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    def links(self) -> list[str]:
        """Return the targets of all links and images."""
        return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", self.prose))


def cells(table: str, column: int = 0) -> list[str]:
    """Return a column of the Markdown tables in a text, without their headings."""
    rows = [line for line in table.splitlines() if line.startswith("|")]
    bars = [n for n, row in enumerate(rows) if re.fullmatch(r"[|:\- ]+", row)]
    headings = {n - 1 for n in bars} | set(bars)
    return [row.split("|")[column + 1].strip() for n, row in enumerate(rows) if n not in headings]


def matches(shown: list[str], printed: list[str]) -> bool:
    """Return whether an output is what a page shows, where … stands for anything."""
    pattern = re.escape("\n".join(shown)).replace("…", ".*")
    return re.fullmatch(pattern, "\n".join(printed), flags=re.DOTALL) is not None


def pages() -> list[Page]:
    """Return the README, the pages of docs/, and those for contributors."""
    names = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "python/README.md"]
    return [Page(name) for name in names] + [
        Page(path.relative_to(ROOT).as_posix()) for path in sorted(ROOT.glob("docs/**/*.md"))
    ]
