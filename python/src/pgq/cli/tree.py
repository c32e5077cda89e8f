"""What a job waits for, and what waits for it: the drawing, and the order in which to cancel."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import click

from pgq.cli.output import fit, print_json, shown, width_of
from pgq.views import Views

# The jobs that are shown of those that the job waits for, and of those that wait for it: each time the nearest.
MOST: Final = 500
# Lines from this depth on are indented no further, and begin with their depth.
DEEPEST: Final = 8
BRANCH: Final = "+- "

Links = Mapping[int, Sequence[int]]
Jobs = Mapping[int, dict[str, Any]]


def dependents_of(prerequisites: Links) -> dict[int, list[int]]:
    """Return the jobs that wait for each job, in the order of their ids."""
    dependents: dict[int, list[int]] = {}
    for job_id in sorted(prerequisites):
        for needed in prerequisites[job_id]:
            dependents.setdefault(needed, []).append(job_id)
    return dependents


def reached(start: int, links: Links) -> dict[int, int]:
    """Return the jobs that links lead to, directly or not, the nearest first, each with the job that leads to it."""
    origins = {start: start}
    ids = [start]
    for job_id in ids:
        for other in links.get(job_id, ()):
            if other not in origins:
                origins[other] = job_id
                ids.append(other)
    del origins[start]
    return origins


def dependents_first(views: Views, job_ids: Iterable[int]) -> list[int]:
    """
    Return these jobs and all that wait for one of them, directly or not, each one before those that it waits for.

    When they are cancelled in this order, none is unblocked.
    """
    dependents = dependents_of(views.prerequisites())
    order: list[int] = []
    seen: set[int] = set()
    for job_id in job_ids:
        path = [(job_id, iter(dependents.get(job_id, ())))] if job_id not in seen else []
        seen.add(job_id)
        while path:
            current, others = path[-1]
            other = next((other for other in others if other not in seen), None)
            if other is None:
                order.append(current)
                path.pop()
            else:
                seen.add(other)
                path.append((other, iter(dependents.get(other, ()))))
    return order


def print_tree(views: Views, job_id: int, json_: bool) -> None:
    """Print the job, what it waits for, and what waits for it, as a drawing or as JSON. Raises JobNotFound."""
    prerequisites = views.prerequisites()
    above, below = reached(job_id, prerequisites), reached(job_id, dependents_of(prerequisites))
    near_above, near_below = dict(islice(above.items(), MOST)), dict(islice(below.items(), MOST))
    jobs = {job["id"]: job for job in views.outlines([job_id, *near_above, *near_below], required=job_id)}
    if json_:
        levels = {job_id: 0}
        for origins, step in ((near_above, -1), (near_below, 1)):
            for other, origin in origins.items():
                levels.setdefault(other, levels[origin] + step)
        nodes = [jobs[other] | {"level": level} for other, level in levels.items() if other in jobs]
        print_json(sorted(nodes, key=lambda node: (node["level"], node["id"])))
    else:
        width = shutil.get_terminal_size().columns
        dependents = dependents_of({other: prerequisites[other] for other in near_below})
        # Drawn from the job on, with the largest ids first, and then turned over.
        turned = {other: needed[::-1] for other, needed in prerequisites.items() if other in jobs}
        for line in reversed(list(branches(job_id, turned, near_above, jobs, width))):
            click.echo(line)
        click.echo(line_of(job_id, jobs, "", width))
        for line in branches(job_id, dependents, near_below, jobs, width):
            click.echo(line)
    for all_, what in ((above, f"job {job_id} waits for {len(above)} jobs"), (below, f"{len(below)} jobs wait for it")):
        if len(all_) > MOST:
            click.echo(f"pgq: {what}, directly or not; the nearest {MOST} are shown", err=True)


def branches(start: int, links: Links, origins: Mapping[int, int], jobs: Jobs, width: int) -> Iterator[str]:
    """
    Yield the lines below a job: one for each job of ``origins``, under that from which it is reached.

    The other links of a job between these are in one line under it, however many they are.
    """
    drawn = {start, *origins}
    # A job or a text, its depth, what its line begins with, and what the lines below it begin with.
    stack: list[tuple[int | str, int, str, str]] = [(start, 0, "", "")]
    while stack:
        item, depth, lead, lead_below = stack.pop()
        if isinstance(item, str):
            yield fit(lead + item, width).rstrip()
            continue
        if depth:
            yield line_of(item, jobs, lead, width)
        others = [other for other in links.get(item, ()) if other in drawn]
        below: list[int | str] = [other for other in others if origins.get(other) == item]
        elsewhere = [str(other) for other in others if origins.get(other) != item]
        if elsewhere:
            below.append(f"see {', '.join(elsewhere)}")
        for n, other in reversed(list(enumerate(below, 1))):
            if depth < DEEPEST:
                bar = "|  " if n < len(below) else "   "
                stack.append((other, depth + 1, lead_below + BRANCH, lead_below + bar))
            else:
                number = f"[{depth + 1}] ".ljust(DEEPEST * len(BRANCH))
                stack.append((other, depth + 1, number + BRANCH, ""))


def line_of(job_id: int, jobs: Jobs, lead: str, width: int) -> str:
    """Return the line of a job: its id, kind, state and queue. Kind and queue are cut where it is too long."""
    if job_id not in jobs:
        return f"{lead}{job_id}  hidden or gone"
    kind, state, queue = (shown(jobs[job_id][name]) for name in ("kind", "state", "queue"))
    space = width - len(f"{lead}{job_id}  ") - len(f"  {state}  ")
    for_kind = min(width_of(kind), max(space // 2, space - width_of(queue), 4))
    for_queue = min(width_of(queue), max(space - for_kind, 4))
    return f"{lead}{job_id}  {fit(kind, for_kind)}  {state}  {fit(queue, for_queue)}"
