"""Run contenders in turns, and keep what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, TypeVar

T = TypeVar("T")
OURS = "pgq"


class BenchError(Exception):
    """A measurement failed, or its numbers cannot be right."""


class Unavailable(BenchError):
    """A contender or a server cannot take part here; the message says what is missing."""


# The units of what a job costs.
COSTS = {"server CPU": "us/job", "client CPU": "us/job", "WAL": "B/job"}


@dataclass(frozen=True)
class Sample:
    """One measured value, and what a job has cost meanwhile, by the names in COSTS."""

    value: float
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """The values of one contender in one comparison, one for each round, and the medians of what a job has cost."""

    scenario: str
    what: str
    contender: str
    unit: str
    values: list[float]
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def key(self) -> tuple[str, str]:
        return self.scenario, self.what

    @property
    def cpu(self) -> float:
        """The CPU time of a job, of server and client; what was not measured is left out."""
        return self.costs.get("server CPU", 0.0) + self.costs.get("client CPU", 0.0)

    def ratio_to(self, other: Measurement) -> float | None:
        """
        Return the median of the ratios to another measurement in each round; None if that has measured nothing.

        The two are measured one after the other, so what slows both in a round leaves its ratio as it is. Where they
        have no common rounds, it is the ratio of their medians.
        """
        if not all(other.values):
            return None
        if len(self.values) != len(other.values):
            return self.median / other.median
        return median(one / another for one, another in zip(self.values, other.values, strict=True))


@dataclass
class Results:
    """
    All measurements of a run, in the order in which they were taken.

    ``series`` holds the data of the pictures, ``noise`` what else the machine did in each scenario, ``measured`` the
    date and the commit of each scenario, and ``notices`` say what was left out.
    """

    measurements: list[Measurement] = field(default_factory=list)
    noise: dict[str, dict[str, float]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    series: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    measured: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Results:
        """Return the results that ``to_json`` has written."""
        found = json.loads(text)
        names = {one.name for one in fields(Measurement)}
        measurements = [
            Measurement(**{name: value for name, value in one.items() if name in names})
            for one in found["measurements"]
        ]
        series = {
            picture: {name: [(x, y) for x, y in points] for name, points in lines.items()}
            for picture, lines in found["series"].items()
        }
        return cls(measurements, found["noise"], found["notices"], series, found["measured"])

    def replace(self, later: Results, order: Sequence[str]) -> None:
        """Take over all scenarios of a later run; ``order`` is that of all scenarios."""
        kept = [one for one in self.measurements if one.scenario not in later.noise]
        self.measurements = sorted([*kept, *later.measurements], key=lambda one: order.index(one.scenario))
        self.notices += [notice for notice in later.notices if notice not in self.notices]
        for ours, theirs in ((self.noise, later.noise), (self.measured, later.measured), (self.series, later.series)):
            ours.update(theirs)  # type: ignore[arg-type]
        self.noise = {name: self.noise[name] for name in order if name in self.noise}

    def find(self, scenario: str, what: str, contender: str = OURS) -> Measurement | None:
        """Return a measurement, or None if it was not taken."""
        for one in self.measurements:
            if (one.scenario, one.what, one.contender) == (scenario, what, contender):
                return one
        return None

    def ratio_to(self, yardstick: Measurement) -> float | None:
        """Return the ratio of pgq to the yardstick; None if there is nothing to compare."""
        ours = self.find(*yardstick.key)
        return None if ours is None or ours is yardstick else ours.ratio_to(yardstick)

    def to_json(self, head: Mapping[str, Any]) -> str:
        measured = [asdict(one) | {"median": one.median} for one in self.measurements]
        return (
            json.dumps(
                {
                    **head,
                    "noise": self.noise,
                    "measured": self.measured,
                    "notices": self.notices,
                    "measurements": measured,
                    "series": self.series,
                },
                indent=1,
            )
            + "\n"
        )

    def to_markdown(self) -> str:
        lines: list[str] = []
        scenario = ""
        for one in self.measurements:
            if one.scenario != scenario:
                scenario = one.scenario
                names = " | ".join(COSTS)
                lines += ["", f"## {scenario}", ""]
                lines += [f"| what | contender | median | lowest to highest | pgq is | {names} |"]
                lines += [f"|---|---|---:|---:|---:|{'---:|' * len(COSTS)}"]
            ratio = self.ratio_to(one)
            spread = f"{number(min(one.values))} to {number(max(one.values))}" if len(one.values) > 1 else ""
            compared = "" if ratio is None else f"{ratio:.2f} x"
            median_ = f"{number(one.median)} {one.unit}"
            costs = " | ".join(cost(one, name) for name in COSTS)
            lines.append(f"| {one.what} | {one.contender} | {median_} | {spread} | {compared} | {costs} |")
        return "\n".join(lines[1:]) + "\n"

    def noise_to_markdown(self) -> str:
        names = list(next(iter(self.noise.values()), {}))
        lines = [f"| scenario | measured | {' | '.join(names)} |", f"|---|---|{'---:|' * len(names)}"]
        lines += [
            f"| {name} | {self.measured[name]} | {' | '.join(map(number, noise.values()))} |"
            for name, noise in self.noise.items()
        ]
        return "\n".join(lines) + "\n"


@dataclass
class Harness:
    """One run of the benchmarks: its size, and the results of the scenarios."""

    quick: bool
    rounds: int = 5
    results: Results = field(default_factory=Results)

    def pick(self, full: T, quick: T) -> T:
        """Return the value for this size of run."""
        return quick if self.quick else full

    def compare(
        self,
        scenario: str,
        what: str,
        unit: str,
        contenders: Mapping[str, Callable[[], float | Sample]],
        rounds: int = 0,
    ) -> None:
        """Measure the contenders in turns; record one value for each contender and round."""
        samples: dict[str, list[Sample]] = {name: [] for name in contenders}
        for _ in range(rounds or self.rounds):
            for name in list(samples):
                try:
                    measured = contenders[name]()
                except Unavailable as reason:
                    self.notice(f"{scenario}: {name} is left out: {reason}")
                    del samples[name]
                else:
                    samples[name].append(measured if isinstance(measured, Sample) else Sample(measured))
        for name, taken in samples.items():
            costs = {cost: median(sample.costs[cost] for sample in taken) for cost in taken[0].costs}
            self.record(scenario, what, name, unit, [sample.value for sample in taken], costs)
        self.print_ratios(scenario, what)

    def note_noise(self, scenario: str, noise: dict[str, float], measured: str) -> None:
        """Note when and at which commit a scenario was measured, and note and print what else the machine did."""
        self.results.noise[scenario] = noise
        self.results.measured[scenario] = measured
        print(f"  noise: {', '.join(f'{number(value)} {name}' for name, value in noise.items())}", flush=True)

    def notice(self, text: str) -> None:
        """Note and print, once, that something is left out."""
        if text not in self.results.notices:
            self.results.notices.append(text)
            print(f"  {text}", flush=True)

    def record(
        self,
        scenario: str,
        what: str,
        contender: str,
        unit: str,
        values: Sequence[float],
        costs: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Record and print the values of a contender."""
        one = Measurement(scenario, what, contender, unit, list(values), dict(costs))
        self.results.measurements.append(one)
        spread = f"  ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""
        print(f"  {what:<44} {contender:<22} {number(one.median):>10} {unit}{spread}", flush=True)
        if costs:
            print(
                f"  {'':<44} {'':<22} {', '.join(f'{name} {cost(one, name)}' for name in COSTS if name in costs)}",
                flush=True,
            )

    def print_ratios(self, scenario: str, what: str) -> None:
        """Print how pgq compares with each other contender: its ratio, and that of the CPU time of a job."""
        ours = self.results.find(scenario, what)
        ratios = []
        for one in self.results.measurements:
            if one.key == (scenario, what) and ours and (ratio := self.results.ratio_to(one)) is not None:
                cpu = f" with {ours.cpu / one.cpu:.2f} x its CPU" if one.cpu else ""
                ratios.append(f"{ratio:.2f} x {one.contender}{cpu}")
        if ratios:
            print(f"  {'':<44} {OURS} is {', '.join(ratios)}", flush=True)


def cost(one: Measurement, name: str) -> str:
    """Return a cost with its unit, or the empty string if it was not measured."""
    return f"{number(one.costs[name])} {COSTS[name]}" if name in one.costs else ""


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


def quantiles(values: Sequence[float]) -> list[float]:
    """Return 101 percentiles of values, from the lowest to the highest: what is kept of thousands of samples."""
    return [percentile(values, percent) for percent in range(101)]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
