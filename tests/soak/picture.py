"""The picture of a soak in docs/images: what could grow, over time; nothing is measured or judged here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tests.soak.sampling import Sample
from tests.soak.verdict import rows

PICTURE: Final = Path(__file__).parents[2] / "docs" / "images" / "soak.svg"
COLOURS: Final = ("#0b6e99", "#c0392b", "#6b8e23", "#8e6bbf", "#b8860b", "#7f7f7f")
Lines = Mapping[str, Sequence[float | None]]


def draw(document: Mapping[str, Any], path: Path = PICTURE) -> None:
    """Write the picture, the same bytes for the same result."""
    samples: list[Sample] = document["samples"]
    minutes = [sample["seconds"] / 60 for sample in samples]
    path.parent.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "fedgpu", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(10, 8.5), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(3, 2, sharex=True)
        _plot(grid[0][0], minutes, {"resident": _line(samples, "operator.rssMiB")}, "Operator's memory, MiB")
        handles: Lines = {name: _line(samples, f"operator.{name}") for name in ("files", "sockets", "threads", "tasks")}
        _plot(grid[0][1], minutes, handles, "Operator's open files, sockets and threads")
        kinds = ("computejobs", "computeleases", "settlementepochs", "configmaps")
        hub = {name: _line(samples, f"hub.{name}") for name in kinds}
        _plot(grid[1][0], minutes, hub, "Objects on the hub")
        members = {
            f"{kind}, {member}": _line(samples, f"{member}.{kind}")
            for member in ("alpha", "beta")
            for kind in ("jobs", "pods")
        }
        _plot(grid[1][1], minutes, members, "Objects on the members")
        _plot(grid[2][0], minutes, _largest(samples), "Rows in the ledger, by table")
        money: Lines = {
            "jobs created, tens": [sample["jobs.created"] / 10 for sample in samples],
            "claims that are final": _line(samples, "chain.claims"),
            "ledger, MiB": _line(samples, "ledger.MiB"),
        }
        _plot(grid[2][1], minutes, money, "Work done and paid, and the ledger's file")
        for axes in grid[2]:
            axes.set_xlabel("minutes")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=100)


def _largest(samples: Sequence[Sample], count: int = 5) -> Lines:
    """The tables with most rows at the end, and all of them together."""
    last = samples[-1]
    tables = sorted((name for name in last if name.startswith("rows.")), key=lambda name: -last[name])[:count]
    return {"all that are judged": [rows(sample) or None for sample in samples]} | {
        name.removeprefix("rows."): _line(samples, name) for name in tables
    }


def _line(samples: Sequence[Sample], figure: str) -> list[float | None]:
    return [sample.get(figure) for sample in samples]


def _plot(axes: Axes, minutes: Sequence[float], lines: Lines, title: str) -> None:
    for (name, values), colour in zip(lines.items(), COLOURS, strict=False):
        points = [(x, y) for x, y in zip(minutes, values, strict=True) if y is not None]
        if points:
            axes.plot([x for x, _ in points], [y for _, y in points], color=colour, linewidth=1.2, label=name)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(visible=True, axis="y", color="#e6e6e6", linewidth=0.6)
    axes.tick_params(labelsize=8)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7.5, frameon=False, loc="best")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
