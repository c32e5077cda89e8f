"""
The settings of Sphinx, for make docs.

The source is the whole repository, so that the links between pages are those that a code host follows. The navigation
is that of docs/README.md: it is added to the first page when that is read, so that no page holds directives.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from manual.contents import CONTENTS, ROOT, parts

project = "pgq"
root_doc = "README"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
include_patterns = ["*.md", "docs/**", "bench/results/*.md"]
# Folders that no page is in, so that they are not searched.
exclude_patterns = [".*", "build", "examples", "python", "sql", "tests", "tools"]
myst_heading_anchors = 6
# The lexer of SQL does not know the commands of psql.
suppress_warnings = ["misc.highlighting_failure"]

# Options of programs begin with two dashes.
smartquotes = False

html_theme = "furo"
html_title = "pgq"
html_copy_source = False
html_show_copyright = False


def add_navigation(app: Any, docname: str, source: list[str]) -> None:
    """Add the contents to the first page, as trees that it does not show."""
    if docname != root_doc:
        return
    pages = [f"Contents <{_document(CONTENTS.relative_to(ROOT).as_posix())}>"]
    trees = [_tree("", pages)]
    trees += [_tree(part.title, [f"{one.title} <{_document(one.path)}>" for one in part.entries]) for part in parts()]
    # Reached by links of pages, not by the navigation.
    trees.append(_tree("Figures", ["All figures <bench/results/results>"]))
    source[0] += "\n\n" + "\n\n".join(trees) + "\n"


def _document(path: str) -> str:
    return "/" + path.removesuffix(".md")


def _tree(caption: str, pages: list[str]) -> str:
    option = f":caption: {caption}\n" if caption else ""
    listed = "\n".join(pages)
    return f"```{{toctree}}\n:hidden:\n{option}\n{listed}\n```"


def setup(app: Any) -> None:
    """Register the hook."""
    app.connect("source-read", add_navigation)
