"""The recording of the demo in the README shows what the demo prints."""

from __future__ import annotations

import re

import pytest
from manual.recording import PICTURE, Line, picture, recorded, texts


def shape(lines: list[str]) -> list[str]:
    """Return lines without their numbers and widths, which differ from run to run, and without those of progress."""
    shown = [line for line in lines if line and not Line(0, line).is_progress]
    return [re.sub(r"\s+", " ", re.sub(r"\d[\d.,]*", "0", line)) for line in shown]


def test_a_picture_shows_a_line_until_it_is_replaced() -> None:
    """Progress is shown in one row; the last of it stays."""
    lines = [Line(0, "$ make demo"), Line(1, "1 of 2 ended"), Line(2, "2 of 2 ended"), Line(3, "a <table>")]
    svg = picture(lines)
    assert texts(svg) == ["$ make demo", "2 of 2 ended", "a &lt;table&gt;"]
    assert re.findall(r' y="(\d+)"', svg) == ["24", "44", "44", "64"]
    assert "5.00% { opacity: 1 } 10.00% { opacity: 0 }" in svg


@pytest.mark.slow
def test_the_recording_is_that_of_the_demo(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change to the demo call make recording."""
    monkeypatch.setenv("PGQ_DSN", dsn)
    assert shape(texts(PICTURE.read_text(encoding="utf-8"))) == shape([line.text for line in recorded()])
