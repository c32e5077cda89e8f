"""The screen of ``pgq top`` as lines with styles, none wider than the terminal; and the same as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgq.cli.output import fit, shown, table
from pgq.cli.top.figures import number, rate, span, sparkline
from pgq.cli.top.lists import LISTS, OVER, Row, Source, counted, local
from pgq.cli.top.view import HELP, NAMES, View
from pgq.doctor.finding import SEVERITIES
from pgq.overview import Rates, Snapshot

Line = tuple[str, str]
PLAIN, BOLD, FAINT, HEAD, CHOSEN, ALARM = "", "bold", "dim", "bold underline", "reverse", "yellow"
ERROR = "bold red"
# A terminal with so many lines has space for several lists.
TALL = 36
KEYS = "q quit  ? help  tab list  s sort  / filter  p pause  r retry  c cancel"


@dataclass(frozen=True)
class Status:
    """Where the numbers are from, and what has failed since."""

    database: str
    lost: str = ""


def frame(view: View, source: Source | None, status: Status, width: int, height: int) -> list[Line]:
    """Return the lines of the screen: so many, none wider."""
    if source is None:
        lines = [(f"pgq top  {status.database}", BOLD), (status.lost or "reading …", ERROR if status.lost else PLAIN)]
        return _cut(lines, _foot(view), width, height)
    snapshot = source.snapshot
    pace = "stopped" if view.frozen else f"every {view.interval:g} s"
    lines = [(f"pgq top  {status.database}  {local(snapshot.at)}  {pace}", BOLD)]
    lines += [(line, PLAIN) for line in _charts(source, width)]
    lines += [(totals(snapshot), PLAIN)]
    # A terminal with few lines shows rows instead.
    if height >= 12:
        lines.append(verdict(source))
    lines += [(line, ERROR) for line in notices(snapshot, status)]
    if 20 <= height < TALL:
        lines += [(line, PLAIN) for line in digest(source)]
    if view.help:
        return _cut([*lines, ("", PLAIN), *((line, PLAIN) for line in HELP)], _foot(view), width, height)
    if height >= 12:
        lines.append((_tabs(view), FAINT))
    space = height - len(lines) - 2
    rows = view.rows(source)
    view.cursor = max(0, min(view.cursor, len(rows) - 1))
    # A tall terminal shows the other lists, too, below this one.
    most = max(1, space if height < TALL else space * 3 // 5)
    first = max(0, min(view.cursor - most // 2, len(rows) - most))
    lines += _table(view, view.listing, rows[first : first + most], width, view.cursor - first)
    for name in ("waits", "deaths", "workers", "doctor") if height >= TALL else ():
        left = height - len(lines) - 1
        if name != view.listing and left >= 4:
            lines += [
                ("", PLAIN),
                (LISTS[name].title, BOLD),
                *_table(view, name, view.rows(source, name)[: left - 3], width),
            ]
    return _cut(lines, _foot(view), width, height)


def report(source: Source, status: Status, width: int) -> list[str]:
    """Return a snapshot as text: all that the screen can show, for logs and pipes."""
    snapshot = source.snapshot
    view = View(0)
    lines = [
        f"pgq top  {status.database}  {local(snapshot.at)}",
        "  ".join(_figures(source).values()),
        totals(snapshot),
    ]
    lines += [verdict(source)[0], *notices(snapshot, status)]
    for name in NAMES:
        lines += ["", LISTS[name].title, *(line for line, _ in _table(view, name, view.rows(source, name), width))]
    return [fit(line, width).rstrip() for line in lines]


def totals(snapshot: Snapshot) -> str:
    """Return the numbers of jobs of all queues."""
    rough = any(kind.estimated for kind in snapshot.kinds)
    known = "kinds" not in snapshot.unknown
    oldest = max((wait.age for wait in snapshot.waits), default=None)
    numbers = {
        name: sum(getattr(kind, name) for kind in snapshot.kinds)
        for name in ("waiting", "ripe", "running", "blocked", "dead")
    }
    if known and not numbers["blocked"]:
        del numbers["blocked"]
    present = sum(worker.present is True for worker in snapshot.workers)
    return "  ".join(
        [
            *(f"{name} {counted(name, value, rough) if known else '?'}" for name, value in numbers.items()),
            f"oldest {span(oldest)}",
            f"workers {number(None if 'workers' in snapshot.unknown else present)}",
        ]
    )


def digest(source: Source) -> list[str]:
    """Return what waits longest, what died and who works on what, each in a line, for terminals with few lines."""
    snapshot = source.snapshot
    waits = [f"{span(wait.age)} {wait.queue}/{wait.kind}" for wait in snapshot.waits]
    deaths = [f"{cause.jobs} {cause.queue}/{cause.kind} {cause.error or ''}".rstrip() for cause in snapshot.deaths]
    busy = sorted((worker for worker in snapshot.workers if worker.running), key=lambda worker: -worker.running)
    works = [f"{worker.name} {worker.running} {'/'.join(worker.kinds or ())}" for worker in busy]
    parts = {"waits longest": waits, "died in the last hour": deaths, "works": works}
    return [f"{name}: {shown(', '.join(texts) if texts else 'none')}" for name, texts in parts.items()]


def verdict(source: Source) -> Line:
    """Return what the doctor says, in short."""
    if source.examination is None:
        return "doctor: has not looked yet", FAINT
    findings = source.examination.findings
    counts = {severity: sum(one.severity == severity for one in findings) for severity in SEVERITIES}
    found = ", ".join(f"{count} {severity}{'' if count == 1 else 's'}" for severity, count in counts.items() if count)
    unseen = ", and could not look at all" if source.examination.unseen else ""
    if not findings:
        return f"doctor: finds nothing wrong{unseen}", PLAIN
    style = ERROR if counts["error"] else ALARM if counts["warning"] else PLAIN
    return f"doctor: {found}{unseen}: {shown(findings[0].title)}", style


def notices(snapshot: Snapshot, status: Status) -> list[str]:
    """Return what is wrong, or not known."""
    found = [f"the numbers are old: {status.lost}"] if status.lost else []
    stopped = [f"{place.queue} ({place.why})" for place in snapshot.places if place.why]
    if stopped:
        found.append(f"paused or full: {', '.join(shown(text) for text in stopped)}")
    found += [f"not known: {part}, because {why}" for part, why in snapshot.unknown.items()]
    return found


def _tabs(view: View) -> str:
    """Return the names of the lists, and how the one that is shown is sorted and filtered."""
    names = (f"[{n} {name}]" if name == view.listing else f"{n} {name}" for n, name in enumerate(NAMES, 1))
    order = view.order.get(view.listing)
    parts = (f"by {order[0]}" if order else "", f"only {view.filter!r}" if view.filter else "")
    return "  ".join([" ".join(names), *filter(None, parts)])


def _figures(source: Source) -> dict[str, str]:
    """Return what goes in and out, what fails, and how long jobs wait, by the field of the rates."""
    rates = source.history.rates(OVER) or Rates(source.snapshot.at)
    return {
        "enqueued": f"in {rate(rates.enqueued)}/s",
        "ended": f"out {rate(rates.ended)}/s",
        "failed": f"failed {rate(rates.failed)}/s",
        "waited": f"waited {span(rates.waited)}",
    }


def _charts(source: Source, width: int) -> list[str]:
    """Return these figures, each with a chart where there is space."""
    figures = _figures(source)
    if width < 60:
        return ["  ".join(figures.values())]
    half = (width - 2) // 2
    bars = half - 17
    series = source.history.series(bars, source.step(bars))
    cells = []
    for field, figure in figures.items():
        name, value = figure.split(" ", 1)
        chart = sparkline([None if each is None else getattr(each, field) for each in series], source.bars)
        cells.append(f"{name:<7}{value:>9} {chart}")
    return [f"{fit(cells[n], half)}  {cells[n + 1]}" for n in (0, 2)]


def _table(view: View, name: str, rows: Sequence[Row], width: int, cursor: int | None = None) -> list[Line]:
    """Return the lines of a list."""
    listing = LISTS[name]
    if not rows:
        return [("no row has this text" if view.filter else listing.empty, FAINT)]
    texts = table([dict(row.cells) for row in rows], listing.columns, width)
    heading, *lines = ("  ".join(cells.values()).rstrip() for cells in texts)
    styled = [(heading, HEAD)]
    for n, (row, line) in enumerate(zip(rows, lines, strict=True)):
        styled.append((fit(line, width), CHOSEN) if n == cursor else (line, ALARM if row.alarm else PLAIN))
    return styled


def _foot(view: View) -> Line:
    """Return the last line: a question, the filter, a message, or the keys."""
    if view.question is not None:
        return f"{shown(view.question.question)} y or n", ERROR
    if view.typing:
        return f"/{view.filter}_", BOLD
    if view.message:
        return shown(view.message), BOLD
    return KEYS, FAINT


def _cut(lines: Sequence[Line], foot: Line, width: int, height: int) -> list[Line]:
    """Return the lines and the foot in the size of the screen."""
    shown_lines = [*lines[: height - 1], *[("", PLAIN)] * (height - 1 - len(lines)), foot]
    return [(fit(line, width) if style == CHOSEN else fit(line, width).rstrip(), style) for line, style in shown_lines]
