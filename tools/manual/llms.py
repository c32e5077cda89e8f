"""llms.txt, a list of the pages for programs that read documentation, from docs/README.md."""

from __future__ import annotations

from typing import Final

from manual.contents import Part, parts

INTRODUCTION: Final = """\
# pgq

> A job queue that is just PostgreSQL: one SQL file with functions that enqueue, claim and complete jobs, and a thin
> synchronous Python driver with a worker. A program enqueues in the transaction that changes its data.

A program that writes code with pgq reads docs/assistants.md first: it has the calls, the rules and the mistakes to
avoid. The extension, the Python import and the command are called pgq; the Python distribution is pgq-jobs. It is not
the PgQ of Skytools.
"""


def page() -> str:
    """Return the text."""
    sections = [f"## {part.title}\n\n" + "".join(_lines(part)) for part in parts()]
    return "\n".join([INTRODUCTION, *sections])


def _lines(part: Part) -> list[str]:
    return [f"- [{one.title}]({one.path})" + (f": {one.about}" if one.about else "") + "\n" for one in part.entries]
