"""Charts as SVG, drawn on the server: shapes only, so that they stretch; the words around them are HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

# The coordinates of a chart; CSS gives it its size.
WIDTH: Final = 600.0
HEIGHT: Final = 100.0

# A value at each of some times that follow each other; None: it is not known.
Points = Sequence[float | None]


def ceiling(points: Points) -> float:
    """Return the value at the top of a chart: the next of 1, 2 or 5 times a power of ten, 0 if nothing is known."""
    most = max((value for value in points if value is not None), default=0.0)
    if most <= 0:
        return 0.0
    power = 1.0
    while power > most:
        power /= 10
    while power * 10 <= most:
        power *= 10
    return next(power * step for step in (1, 2, 5, 10) if power * step >= most)


def area(points: Points, colour: str, label: str, words: Sequence[str] = ()) -> Markup:
    """
    Return the chart of one series: an area under a line, with a gap wherever nothing is known.

    ``label`` says what it shows to those who do not see it. ``words`` are shown over each point.
    """
    top = ceiling(points) or 1.0
    step = WIDTH / max(len(points) - 1, 1)
    shapes = Markup()
    for run in runs(points):
        line = " L".join(f"{n * step:.1f} {HEIGHT - value / top * HEIGHT:.1f}" for n, value in run)
        if len(run) == 1:
            n, value = run[0]
            line += f" L{min(n * step + 2, WIDTH):.1f} {HEIGHT - value / top * HEIGHT:.1f}"
        first, last = run[0][0] * step, run[-1][0] * step
        shapes += Markup('<path class="area" d="M{} {} L{} L{} {}Z"/><path class="line" d="M{}"/>').format(
            f"{first:.1f}", HEIGHT, line, f"{last:.1f}", HEIGHT, line
        )
    for n, word in enumerate(words):
        left = max(n * step - step / 2, 0.0)
        shapes += Markup('<rect class="hit" x="{}" y="0" width="{}" height="{}"><title>{}</title></rect>').format(
            f"{left:.1f}", f"{step:.1f}", HEIGHT, word
        )
    return Markup(
        '<svg class="chart {}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(colour, int(WIDTH), int(HEIGHT), label, shapes)


def runs(points: Points) -> list[list[tuple[int, float]]]:
    """Return the stretches of points that follow each other with known values, each with its place."""
    found: list[list[tuple[int, float]]] = []
    is_open = False
    for n, value in enumerate(points):
        if value is None:
            is_open = False
            continue
        if not is_open:
            found.append([])
            is_open = True
        found[-1].append((n, value))
    return found


def bar(done: float, failed: float = 0.0) -> Markup:
    """Return a progress bar, of two shares of one."""
    done, failed = min(max(done, 0.0), 1.0), min(max(failed, 0.0), 1.0)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="8"/><rect class="failed" width="{}" height="8"/>'
        '<rect class="done" x="{}" width="{}" height="8"/></svg>'
    ).format(f"{failed * 100:.1f}", f"{failed * 100:.1f}", f"{max(done - failed, 0) * 100:.1f}")
