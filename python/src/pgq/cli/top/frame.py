"""The screen of ``pgq top`` as lines with styles, none wider than the terminal; and the same as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgq.cli.output import fit, shown, table
from pgq.cli.top.figures import number, rate, span, sparkline
from pgq.cli.top.lists import LISTS, OVER, Row, Source, local
from pgq.cli.top.view import HELP, NAMES, View
from pgq.doctor.finding import SEVERITIES
from pgq.overview import Rates, Snapshot

Line = tuple[str, str]
PLAIN, BOLD, FAINT, HEAD, CHOSEN, ALARM = "", "bold", "dim", "bold underline", "reverse", "yellow"
ERROR = "bold red"
KEYS = "q quit  ? help  tab list  s sort  / filter  p pause  r retry  c cancel  space stop"


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
    if view.help:
        return _cut([*lines, ("", PLAIN), *((line, PLAIN) for line in HELP)], _foot(view), width, height)
    if height >= 12:
        lines.append((_tabs(view), FAINT))
    space = height - len(lines) - 2
    rows = view.rows(source)
    view.cursor = max(0, min(view.cursor, len(rows) - 1))
    # A tall terminal shows the other lists, too, below this one.
    most = max(1, space if height < 36 else space * 3 // 5)
    first = max(0, min(view.cursor - most // 2, len(rows) - most))
    lines += _table(view, view.listing, rows[first : first + most], width, view.cursor - first)
    for name in ("waits", "deaths", "workers", "doctor"):
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
    lines = [f"pgq top  {status.database}  {local(snapshot.at)}", *_charts(source, width), totals(snapshot)]
    lines += [verdict(source)[0], *notices(snapshot, status)]
    for name in NAMES:
        lines += ["", LISTS[name].title, *(line for line, _ in _table(view, name, view.rows(source, name), width))]
    return [fit(line, width).rstrip() for line in lines]


def totals(snapshot: Snapshot) -> str:
    """Return the numbers of jobs of all queues."""
    rough = any(kind.estimated for kind in snapshot.kinds)
    known = "kinds" not in snapshot.unknown
    oldest = max((wait.age for wait in snapshot.waits), default=None)
    counted = {
        name: number(sum(getattr(kind, name) for kind in snapshot.kinds) if known else None, estimated=rough)
        for name in ("waiting", "ripe", "running", "blocked", "dead")
    }
    present = sum(worker.present is True for worker in snapshot.workers)
    return "  ".join([*(f"{name} {value}" for name, value in counted.items()), f"oldest {span(oldest)}",
                      f"workers {number(present if 'workers' not in snapshot.unknown else None)}"])  # fmt: skip


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


def _charts(source: Source, width: int) -> list[str]:
    """Return what goes in and out, what fails, and how long jobs wait, each with a chart where there is space."""
    rates = source.history.rates(OVER) or Rates(source.snapshot.at)
    figures = {
        "in": (f"{rate(rates.enqueued)}/s", "enqueued"),
        "out": (f"{rate(rates.ended)}/s", "ended"),
        "failed": (f"{rate(rates.failed)}/s", "failed"),
        "waited": (span(rates.waited), "waited"),
    }
    if width < 60:
        return ["  ".join(f"{name} {value}" for name, (value, _) in figures.items())]
    half = (width - 2) // 2
    bars = half - 17
    series = source.history.series(bars, source.step(bars))
    cells = []
    for name, (value, key) in figures.items():
        chart = sparkline([None if each is None else getattr(each, key) for each in series], source.bars)
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
