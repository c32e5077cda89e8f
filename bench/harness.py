"""Run contenders in turns, and keep what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

T = TypeVar("T")
OURS = "pgq"


class BenchError(Exception):
    """A measurement failed, or its numbers cannot be right."""


@dataclass(frozen=True)
class Measurement:
    """The values of one contender in one comparison, one for each round."""

    scenario: str
    what: str
    contender: str
    unit: str
    values: list[float]

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def key(self) -> tuple[str, str]:
        return self.scenario, self.what


@dataclass
class Results:
    """All measurements of a run, in the order in which they were taken; ``series`` holds the data of the pictures."""

    measurements: list[Measurement] = field(default_factory=list)
    series: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)

    def find(self, scenario: str, what: str, contender: str = OURS) -> Measurement | None:
        """Return a measurement, or None if it was not taken."""
        for one in self.measurements:
            if (one.scenario, one.what, one.contender) == (scenario, what, contender):
                return one
        return None

    def ratio_to(self, yardstick: Measurement) -> float | None:
        """Return the median of pgq divided by that of the yardstick; None if there is no other median to compare."""
        ours = self.find(*yardstick.key)
        if ours is None or ours is yardstick or not yardstick.median:
            return None
        return ours.median / yardstick.median

    def to_json(self, head: Mapping[str, Any]) -> str:
        measured = [asdict(one) | {"median": one.median} for one in self.measurements]
        return json.dumps({**head, "measurements": measured, "series": self.series}, indent=1) + "\n"

    def to_markdown(self) -> str:
        lines: list[str] = []
        scenario = ""
        for one in self.measurements:
            if one.scenario != scenario:
                scenario = one.scenario
                lines += ["", f"## {scenario}", "", "| what | contender | median | lowest to highest | pgq is |"]
                lines += ["|---|---|---:|---:|---:|"]
            ratio = self.ratio_to(one)
            spread = f"{number(min(one.values))} to {number(max(one.values))}" if len(one.values) > 1 else ""
            compared = "" if ratio is None else f"{ratio:.2f} x"
            median_ = f"{number(one.median)} {one.unit}"
            lines.append(f"| {one.what} | {one.contender} | {median_} | {spread} | {compared} |")
        return "\n".join(lines[1:]) + "\n"


@dataclass
class Harness:
    """One run of the benchmarks: its size, and the results of the scenarios."""

    quick: bool
    results: Results = field(default_factory=Results)

    def pick(self, full: T, quick: T) -> T:
        """Return the value for this size of run."""
        return quick if self.quick else full

    @property
    def rounds(self) -> int:
        """The number of rounds of a comparison."""
        return self.pick(3, 1)

    def compare(
        self, scenario: str, what: str, unit: str, contenders: Mapping[str, Callable[[], float]], rounds: int = 0
    ) -> None:
        """Measure the contenders in turns; record one value for each contender and round."""
        values: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds or self.rounds):
            for name, measure in contenders.items():
                values[name].append(measure())
        for name, measured in values.items():
            self.record(scenario, what, name, unit, measured)
        self.print_ratios(scenario, what)

    def record(self, scenario: str, what: str, contender: str, unit: str, values: Sequence[float]) -> None:
        """Record and print the values of a contender."""
        one = Measurement(scenario, what, contender, unit, list(values))
        self.results.measurements.append(one)
        spread = f"  ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""
        print(f"  {what:<44} {contender:<22} {number(one.median):>10} {unit}{spread}", flush=True)

    def print_ratios(self, scenario: str, what: str) -> None:
        """Print the median of pgq divided by that of each other contender in this comparison."""
        ratios = [
            f"{ratio:.2f} x {one.contender}"
            for one in self.results.measurements
            if one.key == (scenario, what) and (ratio := self.results.ratio_to(one)) is not None
        ]
        if ratios:
            print(f"  {'':<44} {OURS} is {', '.join(ratios)}", flush=True)


def number(value: float) -> str:
    """Return a number as text with three significant digits, and with all digits before the decimal point."""
    if value == 0:
        return "0"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the percentile of values, by the nearest-rank method."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered) + 0.5) - 1))]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
