"""The result of `python -m benchmarks.month` as a document and as a table for people; nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

RESULT: Final = Path(__file__).parents[1] / "results" / "month.json"
Figures = dict[str, Any]
Document = dict[str, Any]

DAY_SHARE: Final = 20
"""The books of a running lease and day weigh at most one part in so many of what they weighed."""
OVER_OFF: Final = 1.2
"""An unchanged pass with settlement costs at most so many times one without."""
CHANGE_S: Final = 0.2
CHANGES: Final = {
    "reading": "a lease has a newer reading",
    "job": "a job is created",
    "end": "a run ends, and its GPUs are free",
}


def unchanged_ratio(figures: Figures) -> float:
    """An unchanged pass with settlement over one without, in CPU seconds."""
    return float(figures["unchanged"]["cpuSeconds"] / max(figures["unchangedOff"]["cpuSeconds"], 1e-9))


def worst_change(figures: Figures) -> float:
    """CPU seconds of the dearest pass with one change."""
    return max(float(figures[f"change.{name}"]["cpuSeconds"]) for name in CHANGES)


LINES: Final[tuple[tuple[str, Callable[[Figures], float], str], ...]] = (
    ("bytes in the books per running lease and day", lambda f: f["day"]["bytesPerLeaseDay"], "{:,.0f}"),
    ("a pass in which nothing changed, CPU s", lambda f: f["unchanged"]["cpuSeconds"], "{:.3f}"),
    ("the same without settlement, CPU s", lambda f: f["unchangedOff"]["cpuSeconds"], "{:.3f}"),
    ("the first over the second", unchanged_ratio, "{:.2f}"),
    ("SQL statements of the first", lambda f: f["unchanged"]["statements"], "{:.0f}"),
    *(
        (f"a pass with one change: {words}, CPU s", lambda f, n=name: f[f"change.{n}"]["cpuSeconds"], "{:.3f}")
        for name, words in CHANGES.items()
    ),
    ("a pass over the accounts, nothing changed, CPU s", lambda f: f["unchanged.accounts"]["cpuSeconds"], "{:.3f}"),
    ("a pass over the market, nothing changed, CPU s", lambda f: f["unchanged.market"]["cpuSeconds"], "{:.3f}"),
    ("memory after all passes, less the hub's objects, MiB", lambda f: f["memoryMiB"], "{:.0f}"),
    ("restart until the first pass is done, s", lambda f: f["restart"]["seconds"], "{:.1f}"),
    ("of it CPU s", lambda f: f["restart"]["cpuSeconds"], "{:.1f}"),
    ("opening the ledger, an upgrade included, s", lambda f: f["openSeconds"], "{:.1f}"),
    ("`fedgpu ledger verify` over all of it, s", lambda f: f["verifySeconds"], "{:.0f}"),
)


def bounds(document: Document) -> Iterator[tuple[str, str, bool]]:
    """(what must hold, on which engine, whether it does)."""
    before, builds = document["before"], document["builds"]
    for engine, figures in builds["present"].items():
        if before in builds:
            then = builds[before][engine]["day"]["bytesPerLeaseDay"]
            share = figures["day"]["bytesPerLeaseDay"] * DAY_SHARE <= then
            yield f"bytes per running lease and day ≤ 1/{DAY_SHARE} of {before}'s", engine, share
        yield f"unchanged pass ≤ {OVER_OFF} × one without settlement", engine, unchanged_ratio(figures) <= OVER_OFF
        yield f"one change ≤ {CHANGE_S} CPU s", engine, worst_change(figures) <= CHANGE_S


def met(document: Document) -> bool:
    """Whether every bound holds."""
    return all(holds for _, _, holds in bounds(document))


def line(figures: Figures) -> str:
    """The main figures in one line, for whoever waits."""
    unchanged, without = (figures[name]["cpuSeconds"] for name in ("unchanged", "unchangedOff"))
    day = f"{figures['day']['bytesPerLeaseDay']:,} B a lease and day"
    return f"{day}; unchanged {unchanged:.3f}, off {without:.3f}, one change {worst_change(figures):.3f} CPU s"


def read() -> Document:
    """The result as it was written last."""
    found: Document = json.loads(RESULT.read_text())
    return found


def write(document: Document) -> None:
    """Write benchmarks/results/month.json."""
    RESULT.write_text(json.dumps(document, indent=1) + "\n")


def table(document: Document) -> str:
    """In Markdown, as docs/benchmarks.md shows it."""
    where, size = document["machine"], document["size"]
    columns = [(build, engine) for build, engines in document["builds"].items() for engine in engines]
    intro = (
        f"{where['cpu']}, {where['cores']} cores, Python {where['python']}; load average {where['loadBefore'][0]:.1f} "
        f"before it, {document['seconds'] / 60:.0f} minutes. {size['providers']:,} providers, {size['finished']:,} "
        f"finished attempts, {size['epochs']} epochs, {size['running']:,} running, {size['waiting']:,} waiting."
    )
    head = "| figure | " + " | ".join(f"{build}, {engine}" for build, engine in columns) + " |"
    rows = [head, "|---|" + "--:|" * len(columns)]
    for words, figure, shape in LINES:
        cells = [_cell(document["builds"][build][engine], figure, shape) for build, engine in columns]
        rows.append(f"| {words} | " + " | ".join(cells) + " |")
    judged = [f"- {'' if holds else '**missed** '}{what} ({engine})" for what, engine, holds in bounds(document)]
    return "\n".join([intro, "", *rows, "", *judged])


def _cell(figures: Figures, figure: Callable[[Figures], float], shape: str) -> str:
    try:
        return shape.format(figure(figures))
    except KeyError:
        return ""
