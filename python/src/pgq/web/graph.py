"""What a job waits for, and what waits for it: read within limits, and drawn from left to right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from markupsafe import Markup

from pgq.web.database import Reader
from pgq.web.show import text
from pgq.web.site import Ask

# Steps in each direction, links that are read for each step, and jobs that are drawn in a column.
STEPS: Final = 3
LINKS: Final = 200
COLUMN: Final = 8
BOX: Final = (160, 46)
GAP: Final = (44, 14)


@dataclass
class Neighbours:
    """The jobs around one, by how many steps they are away: below 0 what it waits for, above 0 what waits for it."""

    levels: dict[int, int]
    links: set[tuple[int, int]] = field(default_factory=set)
    jobs: dict[int, dict[str, Any]] = field(default_factory=dict)
    # Whether there are more than have been read.
    is_cut: bool = False


def near(reader: Reader, job_id: int) -> Neighbours:
    """Return the neighbours of a job, of which it has read a few hundred links at most."""
    around = Neighbours({job_id: 0})
    for step, known, other in ((-1, "job", "needs"), (1, "needs", "job")):
        edge = [job_id]
        for level in range(1, STEPS + 1):
            rows = reader.rows(
                f"SELECT job, needs FROM {{p}}pgq_needs WHERE {known} = ANY (%(ids)s::bigint[]) LIMIT %(most)s",
                {"ids": edge, "most": LINKS},
            )
            around.is_cut |= len(rows) == LINKS
            around.links |= {(row["needs"], row["job"]) for row in rows}
            edge = sorted({row[other] for row in rows} - around.levels.keys())
            around.levels |= dict.fromkeys(edge, step * level)
            if not edge:
                break
        else:
            around.is_cut |= bool(edge)
    rows = reader.rows(
        "SELECT id, kind, state, queue FROM {p}pgq_jobs WHERE id = ANY (%(ids)s::bigint[])", {"ids": [*around.levels]}
    )
    around.jobs = {row["id"]: row for row in rows}
    return around


def drawn(job_id: int, around: Neighbours, ask: Ask) -> Markup:
    """Return the drawing; each box leads to the page of its job."""
    columns: dict[int, list[int]] = {}
    for other in sorted(around.levels):
        columns.setdefault(around.levels[other], []).append(other)
    more = {level: len(ids) - COLUMN for level, ids in columns.items() if len(ids) > COLUMN}
    columns = {level: ids[:COLUMN] for level, ids in columns.items()}
    width, height = BOX
    rows = max(len(ids) + (level in more) for level, ids in columns.items())
    first = min(columns)
    total = (len(columns) * (width + GAP[0]) - GAP[0] + 2, rows * (height + GAP[1]) - GAP[1] + 2)
    places: dict[int, tuple[int, int]] = {}
    boxes = Markup()
    for level, ids in sorted(columns.items()):
        left = 1 + (level - first) * (width + GAP[0])
        count = len(ids) + (level in more)
        upper = 1 + (rows - count) * (height + GAP[1]) // 2
        for n, other in enumerate(ids):
            places[other] = (left, upper + n * (height + GAP[1]))
            boxes += box(other, around, places[other], ask, is_this=other == job_id)
        if level in more:
            boxes += Markup('<text class="more" x="{}" y="{}">and {} more</text>').format(
                left + 12, upper + len(ids) * (height + GAP[1]) + 26, more[level]
            )
    lines = Markup()
    for needed, waiting in sorted(around.links):
        if needed in places and waiting in places:
            lines += line(places[needed], places[waiting])
    return Markup(
        '<svg class="graph" viewBox="0 0 {} {}" width="{}" height="{}" role="group" '
        'aria-label="What the job waits for, and what waits for it">{}{}</svg>'
    ).format(*total, *total, lines, boxes)


def box(job_id: int, around: Neighbours, place: tuple[int, int], ask: Ask, *, is_this: bool) -> Markup:
    """Return the box of a job."""
    job = around.jobs.get(job_id)
    state = job["state"] if job else "gone"
    kind = text(job["kind"]) if job else "hidden or gone"
    x, y = place
    return Markup(
        '<a href="{}"><g class="box {}{}"><rect x="{}" y="{}" width="{}" height="{}" rx="7"/>'
        '<circle cx="{}" cy="{}" r="4"/><text class="kind" x="{}" y="{}">{}</text>'
        '<text class="id" x="{}" y="{}">{} · {}</text></g></a>'
    ).format(
        ask.link(f"/jobs/{job_id}"), state, " this" if is_this else "", x, y, *BOX,
        x + 14, y + 17, x + 25, y + 21, kind if len(kind) < 20 else f"{kind[:18]}…", x + 25, y + 37, job_id, state,
    )  # fmt: skip


def line(start: tuple[int, int], end: tuple[int, int]) -> Markup:
    """Return the line from the right side of one box to the left side of another."""
    x1, y1 = start[0] + BOX[0], start[1] + BOX[1] // 2
    x2, y2 = end[0], end[1] + BOX[1] // 2
    bend = max((x2 - x1) // 2, 20)
    return Markup('<path class="link" d="M{} {} C{} {} {} {} {} {}"/>').format(
        x1, y1, x1 + bend, y1, x2 - bend, y2, x2, y2
    )
