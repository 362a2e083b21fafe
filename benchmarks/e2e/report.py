"""The result as a document and as a table for people, beside what must be reached; nothing is measured here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypedDict

RESULT: Final = Path(__file__).parents[1] / "results" / "e2e.json"

LINES: Final = {
    "jobs_per_second": ("jobs a second, from create to workload", "{:.1f}", 60.0, ">="),
    "core_seconds_per_job": ("core-seconds a job, all processes", "{:.4f}", 0.03, "<="),
    "operator_seconds_per_job": ("of these the operator", "{:.4f}", None, ""),
    "hub_writes_before_run": ("our writes on the hub before it runs", "{:.2f}", 3.0, "<="),
    "requests_per_job": ("requests a job, all API servers", "{:.2f}", 8.0, "<="),
    "latency_p50_s": ("a single job on a calm system, median, s", "{:.3f}", 0.5, "<="),
    "latency_p99_s": ("the same, 99th percentile, s", "{:.3f}", 1.0, "<="),
    "resident_rss_mib": ("operator's memory with all resident, MiB", "{:.0f}", 400.0, "<="),
    "restart_rss_mib": ("the same after a restart, MiB", "{:.0f}", 400.0, "<="),
    "restart_s": ("restart until all of them are followed, s", "{:.1f}", 60.0, "<="),
}
"""What a figure is called, how it is written, and what must be reached."""


class Document(TypedDict):
    """The whole result; `facts` are for whoever reads the file."""

    what: str
    settlement: str
    ledger: str
    jobs: int
    resident: int
    figures: dict[str, float]
    facts: dict[str, Any]
    seconds: float


def read() -> Document:
    """The result as it was written last."""
    found: Document = json.loads(RESULT.read_text())
    return found


def write(document: Document) -> None:
    """Write benchmarks/results/e2e.json."""
    RESULT.write_text(json.dumps(document, indent=1) + "\n")


def table(document: Document) -> str:
    """In Markdown, as docs/benchmarks.md shows it."""
    machine = document["facts"]["machine"]
    load = machine["loadBefore"][0]
    where = (
        f"{machine['cpu']}, {machine['cores']} cores, Kubernetes {document['facts']['versions']['kubernetes']}, Python "
        f"{machine['python']}; load average {load:.1f} before the first. {len(document['facts']['bursts'])} bursts of "
        f"{document['jobs']:,} jobs; {document['resident']:,} resident."
    )
    return "\n".join([where, "", "| figure | measured | must |", "|---|--:|---|", *_rows(document["figures"])])


def _rows(figures: dict[str, float]) -> Iterator[str]:
    for name, (words, shape, bound, sign) in LINES.items():
        if name in figures:
            yield f"| {words} | {shape.format(figures[name])} | {_must(figures[name], bound, sign)} |"


def _must(value: float, bound: float | None, sign: str) -> str:
    if bound is None:
        return ""
    met = value >= bound if sign == ">=" else value <= bound
    return f"{'' if met else '**missed** '}{'≥' if sign == '>=' else '≤'} {bound:g}"
