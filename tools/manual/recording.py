"""
Record what `make demo` prints, as an animated picture: docs/demo.svg.

    python tools/devpg.py run -- python tools/manual/recording.py

The picture shows each line when it was printed, in real time, and begins again after 20 seconds. Where animations are
switched off it shows the end.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
PICTURE: Final = ROOT / "docs/demo.svg"
SECONDS: Final = 20
COLUMNS: Final = 96
LINE_HEIGHT: Final = 20
# A terminal replaces a line of this form by the next one.
PROGRESS: Final = re.compile(r" *\d+ of \d+ ended")


class Line(NamedTuple):
    """A line of the output, and when it was printed, in seconds since the start."""

    at: float
    text: str

    @property
    def is_progress(self) -> bool:
        """Whether the next line of this form takes its place."""
        return PROGRESS.match(self.text) is not None


def recorded() -> list[Line]:
    """Run the demo on the server of libpq's environment, and return its output. Raises CalledProcessError."""
    command = [sys.executable, str(ROOT / "examples/demo/run.py")]
    begin, lines = monotonic(), [Line(0.0, "$ make demo")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        assert process.stdout is not None
        lines += [Line(monotonic() - begin, line.rstrip()) for line in process.stdout]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return lines


def picture(lines: list[Line]) -> str:
    """Return the lines as SVG."""
    rows = _rows(lines)
    height = LINE_HEIGHT * (max(row for row, _, _ in rows) + 2)
    styles, texts = [], []
    for n, (row, line, until) in enumerate(rows):
        if line.text:
            styles.append(_style(n, line.at, until))
            y = LINE_HEIGHT * (row + 1) + 4
            texts.append(
                f'  <text class="t{n}" x="16" y="{y}" xml:space="preserve">{escape(line.text[:COLUMNS])}</text>'
            )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {height}" role="img" aria-label="make demo">',
        "  <style>",
        "    text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #d7dae0 }",
        f"    text {{ animation-duration: {SECONDS}s; animation-iteration-count: infinite }}",
        "    text { animation-timing-function: step-end }",
        *styles,
        "    @media (prefers-reduced-motion: reduce) { text { animation: none !important } }",
        "  </style>",
        f'  <rect width="800" height="{height}" rx="8" fill="#1e2127"/>',
        *texts,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _rows(lines: list[Line]) -> list[tuple[int, Line, float | None]]:
    """Return each line with its row, and when it is replaced, if it is."""
    rows: list[tuple[int, Line, float | None]] = []
    row = -1
    for line, following in _pairs(lines):
        if not (line.is_progress and rows and rows[-1][2] is not None):
            row += 1
        replaced = line.is_progress and following is not None and following.is_progress
        rows.append((row, line, following.at if replaced and following is not None else None))
    return rows


def _pairs(lines: list[Line]) -> Iterator[tuple[Line, Line | None]]:
    yield from zip(lines, [*lines[1:], None], strict=True)


def _style(n: int, at: float, until: float | None) -> str:
    """Return the rules of a text: it is hidden before it is printed, and once it is replaced."""
    steps = [f"0% {{ opacity: {int(at == 0)} }}"]
    if at:
        steps.append(f"{_percent(at)} {{ opacity: 1 }}")
    if until is not None:
        steps.append(f"{_percent(until)} {{ opacity: 0 }}")
    end = int(until is None)
    return (
        f"    .t{n} {{ opacity: {end}; animation-name: k{n} }} "
        f"@keyframes k{n} {{ {' '.join(steps)} 100% {{ opacity: {end} }} }}"
    )


def _percent(at: float) -> str:
    return f"{min(at / SECONDS, 0.999) * 100:.2f}%"


def texts(svg: str) -> list[str]:
    """Return the lines that a picture shows in the end."""
    hidden = set(re.findall(r"\.(t\d+) \{ opacity: 0;", svg))
    found = re.findall(r'<text class="(t\d+)"[^>]*>([^<]*)</text>', svg)
    return [text for name, text in found if name not in hidden]


if __name__ == "__main__":
    PICTURE.write_text(picture(recorded()), encoding="utf-8")
