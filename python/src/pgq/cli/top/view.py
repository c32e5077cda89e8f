"""What the user of ``pgq top`` looks at, and what each key does to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pgq.cli.output import shown
from pgq.cli.top.actions import Action
from pgq.cli.top.lists import LISTS, Row, Source

NAMES: Final = tuple(LISTS)
# By which column each list is sorted at first, and whether the greatest value comes first. None: as it was read.
SORTED: Final = {"queues": ("waiting", True), "kinds": ("waiting", True), "workers": ("worker", False)}
INTERVALS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
HELP: Final = (
    "1 to 6, tab     choose a list: queues, kinds, longest waiting, died, workers, doctor",
    "up, down, j, k  choose a row; page up, page down, home and end move further",
    "s, S            sort by the next column; reverse the order",
    "/               show only rows that contain a text; esc shows all again",
    "p               pause the queue of the row, or let it go on",
    "r               retry the dead jobs of the row",
    "c               cancel the job of the row, or the waiting jobs of its queue and kind",
    "space           stop or go on reading",
    "+, -            read less, or more often",
    "q               quit",
)


@dataclass
class View:
    """The list that is shown, its order and filter, the chosen row, and what is being asked."""

    interval: float
    listing: str = "queues"
    order: dict[str, tuple[str, bool]] = field(default_factory=lambda: dict(SORTED))
    filter: str = ""
    cursor: int = 0
    typing: bool = False
    question: Action | None = None
    message: str = ""
    frozen: bool = False
    help: bool = False
    quit: bool = False

    def rows(self, source: Source, listing: str | None = None) -> list[Row]:
        """Return the rows of a list, or of the one that is shown, filtered and in order."""
        name = listing or self.listing
        rows = list(LISTS[name].rows(source))
        if self.filter:
            text = self.filter.casefold()
            rows = [row for row in rows if any(text in shown(cell).casefold() for cell in row.cells.values())]
        if name in self.order:
            column, descending = self.order[name]
            rows.sort(key=lambda row: _sortable(row.keys[column]), reverse=descending)
        return rows

    def press(self, key: str, rows: Sequence[Row], paused: frozenset[str]) -> Action | None:
        """Handle a key, given the rows that are shown and the queues that are paused; return what is to be done."""
        if self.question is not None:
            return self._answer(key)
        self.message = ""
        if self.typing:
            self._type(key)
        elif self.help:
            self.help = False
        elif key in MOVES:
            self.cursor = max(0, min(self.cursor + MOVES[key], len(rows) - 1))
        elif key in CHOICES:
            self._choose(key)
        elif key in ACTIONS:
            self._ask(key, rows[self.cursor] if self.cursor < len(rows) else None, paused)
        else:
            self._command(key)
        return None

    def _choose(self, key: str) -> None:
        """Show another list, from its first row."""
        step = {"tab": 1, "backtab": -1}.get(key)
        number = int(key) - 1 if step is None else NAMES.index(self.listing) + step
        self.listing, self.cursor = NAMES[number % len(NAMES)], 0

    def _command(self, key: str) -> None:
        """Handle the keys that change how the list is shown, and q."""
        match key:
            case "s" | "S":
                self._sort(turn=key == "S")
            case "+" | "-":
                others = [i for i in INTERVALS if (i > self.interval if key == "+" else i < self.interval)]
                self.interval = (min if key == "+" else max)(others, default=self.interval)
            case "/":
                self.typing = True
            case "esc":
                self.filter = ""
            case " ":
                self.frozen = not self.frozen
            case "?" | "h":
                self.help = True
            case "q" | "ctrl-c" | "ctrl-d":
                self.quit = True

    def _answer(self, key: str) -> Action | None:
        """End a question: only y is a yes."""
        action, self.question = self.question, None
        if key in ("y", "Y"):
            self.message = "…"
            return action
        self.message = "nothing was done"
        return None

    def _type(self, key: str) -> None:
        """Change the text of the filter."""
        if key in ("enter", "esc", "ctrl-c"):
            self.typing = False
            self.filter = self.filter if key == "enter" else ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable():
            self.filter += key
        self.cursor = 0

    def _sort(self, *, turn: bool) -> None:
        """Sort by the next column, the greatest numbers first, or turn the order round."""
        columns = [column.name for column in LISTS[self.listing].columns if column.name != "out"]
        current, descending = self.order.get(self.listing, (columns[-1], False))
        if turn:
            self.order[self.listing] = (current, not descending)
            return
        following = columns[(columns.index(current) + 1) % len(columns)]
        numeric = next(column.right for column in LISTS[self.listing].columns if column.name == following)
        self.order[self.listing] = (following, numeric)

    def _ask(self, key: str, row: Row | None, paused: frozenset[str]) -> None:
        """Ask whether to act on a row."""
        if row is None or row.queue is None:
            self.message = "choose a queue, a kind, a job or a cause first"
        elif key == "p":
            self.question = Action("resume" if row.queue in paused else "pause", row.queue)
        elif key == "r" and self.listing != "waits":
            self.question = Action("retry", row.queue, row.kind, error=row.error)
        elif key == "c" and self.listing == "waits":
            self.question = Action("cancel", row.queue, row.kind, row.job)
        elif key == "c" and self.listing != "deaths":
            self.question = Action("cancel", row.queue, row.kind)
        else:
            self.message = "these jobs wait" if key == "r" else "these jobs are dead"


CHOICES: Final = ("1", "2", "3", "4", "5", "6", "tab", "backtab")
ACTIONS: Final = ("p", "r", "c")
MOVES: Final = {
    "up": -1, "down": 1, "k": -1, "j": 1, "pageup": -10, "pagedown": 10, "home": -(10**9), "end": 10**9
}  # fmt: skip


def _sortable(value: Any) -> tuple[bool, Any]:
    """Return a value that can be compared with others of its column; None is less than all."""
    if value is None:
        return False, 0
    return True, ", ".join(value) if isinstance(value, list) else value
