"""The pictures: jobs per second in a steady state and under a held snapshot, and the cost of a claim by dead rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Series = dict[str, list[tuple[float, float]]]

STYLES: dict[str, dict[str, Any]] = {
    "pgq": {"color": "#1f6fb4", "linewidth": 2.5, "marker": "o"},
    "floor": {"color": "#d1782b", "linewidth": 1.6, "marker": "s"},
    "graphile": {"color": "#b03a48", "linewidth": 1.6, "marker": "D"},
    "pgqueuer": {"color": "#5a9a50", "linewidth": 1.6, "marker": "^"},
    "procrastinate": {"color": "#8b63a8", "linewidth": 1.6, "marker": "v"},
}
# Lines without a style of their own differ by their colour only, and none has that of pgq.
OTHER: dict[str, Any] = {"linewidth": 1.6, "linestyle": "--"}
COLOURS = [style["color"] for name, style in STYLES.items() if name != "pgq"]
LABELS = {"floor": "plain SKIP LOCKED (floor)", "graphile": "graphile-worker"}


def draw(series: dict[str, Series], directory: Path) -> list[Path]:
    """Draw the pictures for which there is data; return the files."""
    mpl.use("agg")
    drawn = []
    for name, picture in PICTURES.items():
        if name in series:
            path = directory / f"{name}.png"
            directory.mkdir(parents=True, exist_ok=True)
            _save(path, series[name], picture)
            drawn.append(path)
    return drawn


def _save(path: Path, series: Series, picture: Callable[[Axes, Series], None]) -> None:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    picture(axes, series)
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _lines(axes: Axes, series: Series) -> None:
    axes.set_prop_cycle(color=COLOURS)
    for name, points in series.items():
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, label=LABELS.get(name, name), markersize=4, **STYLES.get(name, OTHER))


def _steady(axes: Axes, series: Series) -> None:
    _rates(axes, series)
    axes.set_title("A producer and two workers, autovacuum on")


def _held_snapshot(axes: Axes, series: Series) -> None:
    _rates(axes, series)
    axes.set_title("A producer and a worker, while a snapshot is held")


def _groups_held(axes: Axes, series: Series) -> None:
    _rates(axes, series)
    axes.set_title("Jobs in groups, while a snapshot is held")


def _rates(axes: Axes, series: Series) -> None:
    _lines(axes, series)
    axes.set_xlabel("seconds since the start")
    axes.set_ylabel("jobs handled per second")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)


def _dead_rows(axes: Axes, series: Series) -> None:
    _lines(axes, series)
    axes.set_title("Claim of 10 jobs, by dead rows that vacuum cannot remove")
    axes.set_xlabel("dead rows in the table")
    axes.set_ylabel("milliseconds per claim (median)")
    # Linear from 0 to the first level: a logarithmic axis cannot show 0.
    axes.set_xscale("symlog", linthresh=10_000)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_xlim(left=0)


PICTURES = {
    "steady": _steady,
    "held_snapshot": _held_snapshot,
    "groups_held": _groups_held,
    "dead_rows": _dead_rows,
}
