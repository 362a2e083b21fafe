"""The result as a document, as tables for people, and as the chart of the docs; nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Final, TypedDict

from benchmarks.placement.contest import Entry
from benchmarks.placement.workloads import Figures
from benchmarks.placement.worlds import Size

RESULT: Final = Path(__file__).parents[1] / "results" / "placement.json"
SHOWN: Final = (
    "seconds",
    "cpuSeconds",
    "placed",
    "gap",
    "certified",
    "slope",
    "slopeCPU",
)


class Line(TypedDict):
    """One workload: what it was, what it must reach, medians, every run, and the load average when it began."""

    size: dict[str, object]
    targets: dict[str, float]
    figures: Figures
    runs: list[Figures]
    load: float
    missed: list[str]


class Contest(TypedDict):
    """One world, the load average when it began, and everybody's result on it."""

    size: dict[str, object]
    load: float
    entries: list[Entry]


class Result(TypedDict):
    """The whole document."""

    benchmark: str
    machine: dict[str, object]
    workloads: dict[str, Line]
    contests: dict[str, Contest]


def described(size: Size) -> dict[str, object]:
    """A size as the document holds it."""
    return asdict(size)


def empty(machine: dict[str, object]) -> Result:
    """A document with nothing in it yet."""
    return {"benchmark": "placement", "machine": machine, "workloads": {}, "contests": {}}


def write(result: Result) -> None:
    """Write benchmarks/results/placement.json."""
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def read() -> Result:
    """The result as it was written last."""
    result: Result = json.loads(RESULT.read_text())
    return result


def table(result: Result) -> str:
    """Both tables, in Markdown: they stand in docs/benchmarks.md as they are printed."""
    return "\n".join([_where(result), "", *_workloads(result), "", *_contests(result)]).rstrip()


def _where(result: Result) -> str:
    machine = result["machine"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, numpy {machine['numpy']}, "
        f"OR-Tools {machine['ortools']}. `load` is the machine's load average when a line began."
    )


def _workloads(result: Result) -> Iterator[str]:
    yield "| workload | runs | load | seconds | CPU seconds | placed of jobs | gap | also | must |"
    yield "|---|--:|--:|--:|--:|--:|--:|---|---|"
    for name, line in result["workloads"].items():
        figures = line["figures"]
        most = {"seconds": "", "cpuSeconds": "", "placed": "", "gap": ""}
        cells = {each: f"{figures[each]:,.3g}" if each in figures else "" for each in most}
        placed = f"{figures['placed']:,.0f} of {figures['jobs']:,.0f}" if "placed" in figures else ""
        must = ", ".join(_bound(key, bound) for key, bound in line["targets"].items())
        mark = "**missed** " if line["missed"] else ""
        texts = (
            name,
            str(len(line["runs"])),
            f"{line['load']:.1f}",
            cells["seconds"],
            cells["cpuSeconds"],
            placed,
            cells["gap"],
            _also(figures),
            mark + must,
        )
        yield f"| {' | '.join(texts)} |"


def _bound(key: str, bound: float) -> str:
    if key == "peakBytes":
        return f"peak ≤ {bound / 2**30:g} GiB"
    return f"{key} {'≥' if bound < 0 else '≤'} {abs(bound):g}"


def _also(figures: Figures) -> str:
    extra = [key for key in ("certified", "slope", "slopeCPU") if key in figures]
    texts = [f"{key} {figures[key]:,.4g}" for key in extra]
    if "firstSeconds" in figures:
        texts.append(f"first answer {figures['firstSeconds']:.2f} s with gap {figures['firstGap']:.2g}")
    if "peakBytes" in figures:
        texts.append(f"peak {figures['peakBytes'] / 2**30:.2f} GiB")
    return ", ".join(texts)


def _contests(result: Result) -> Iterator[str]:
    for name, contest in result["contests"].items():
        title = f"{name}, load {contest['load']:.1f}"
        yield f"| {title} | CPU seconds | placed per second | placed | USD | USD per GPU-hour |"
        yield "|---|--:|--:|--:|--:|--:|"
        jobs = int(str(contest["size"]["jobs"]))
        for entry in contest["entries"]:
            each = entry["usd"] / entry["gpuHours"] if entry["gpuHours"] else 0.0
            ended = "" if entry["looked"] == jobs else f" (ended after {entry['looked']:,} jobs)"
            rate = f"{entry['cpuSeconds']:,.2f} | {entry['placed'] / entry['seconds']:,.0f}"
            yield f"| {entry['scheduler']}{ended} | {rate} | {entry['placed']:,} | {entry['usd']:,.0f} | {each:.4f} |"
        yield ""
