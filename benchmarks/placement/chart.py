"""The chart of docs/benchmarks.md: times beside what they must be, and everybody on one world; nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import matplotlib as mpl
from benchmarks.placement.report import Contest, Line, Result
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

CHART: Final = Path(__file__).parents[2] / "docs" / "images" / "placement.svg"
OURS, OTHERS, BOUND = "#0b6e99", "#b8b8b8", "#c0392b"
MAIN: Final = "Contest: FED-Basic, single GPUs"


def draw(result: Result, path: Path = CHART) -> None:
    """Write the chart, the same bytes for the same result."""
    path.parent.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "fedgpu", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(10, 7), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2, 2, height_ratios=[1.25, 1])
        _times(figure.add_subplot(grid[0, :]), result["workloads"])
        contest = result["contests"].get(MAIN)
        if contest is not None:
            _speed(figure.add_subplot(grid[1, 0]), contest)
            _worth(figure.add_subplot(grid[1, 1]), contest)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=100)


def _times(axes: Axes, lines: Mapping[str, Line]) -> None:
    shown = {name: line for name, line in lines.items() if "seconds" in line["targets"]}
    seconds = [line["figures"]["seconds"] for line in shown.values()]
    axes.barh(list(shown), seconds, color=OURS, height=0.6)
    for row, line in enumerate(shown.values()):
        bound = line["targets"]["seconds"]
        axes.plot([bound, bound], [row - 0.4, row + 0.4], color=BOUND, linewidth=2)
        label = f"{line['figures']['seconds']:.2f} s "
        axes.annotate(label, (seconds[row], row), ha="right", va="center", fontsize=9, color="white")
    axes.invert_yaxis()
    axes.set(title="From ungrouped jobs to the answer, seconds (red: what it must be)", xlim=(0, None))
    _plain(axes)


def _speed(axes: Axes, contest: Contest) -> None:
    names, colors = _names(contest)
    rates = [entry["placed"] / entry["seconds"] for entry in contest["entries"]]
    axes.barh(names, rates, color=colors, height=0.6)
    for row, rate in enumerate(rates):
        axes.annotate(f" {rate:,.0f}", (rate, row), va="center", fontsize=9)
    axes.set(title=_title(contest, "placements per second"), xscale="log", xlim=(min(rates) / 2, max(rates) * 8))
    axes.invert_yaxis()
    _plain(axes)


def _worth(axes: Axes, contest: Contest) -> None:
    """How many jobs were left waiting; what the placed ones cost is written beside it."""
    _, colors = _names(contest)
    jobs = int(str(contest["size"]["jobs"]))
    left = [entry["looked"] - entry["placed"] for entry in contest["entries"]]
    axes.barh(range(len(left)), left, color=colors, height=0.6)
    for row, entry in enumerate(contest["entries"]):
        each = entry["usd"] / entry["gpuHours"]
        ended = "" if entry["looked"] == jobs else f", ended after {entry['looked']:,} jobs"
        axes.annotate(f" {left[row]:,}, {each:.3f} USD per GPU-hour{ended}", (left[row], row), va="center", fontsize=9)
    axes.set(title="Jobs left waiting, and effective cost", xlim=(0, max(1, *left) * 2.2), yticks=[])
    axes.invert_yaxis()
    _plain(axes)


def _names(contest: Contest) -> tuple[list[str], list[str]]:
    names = [entry["scheduler"].replace(", ", ",\n") for entry in contest["entries"]]
    return names, [OURS if name == "fedgpu" else OTHERS for name in names]


def _title(contest: Contest, what: str) -> str:
    size = contest["size"]
    return f"{int(str(size['jobs'])):,} jobs × {int(str(size['offers'])):,} offers: {what}"


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.title.set_fontsize(10)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)
