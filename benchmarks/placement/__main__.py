"""Placement against its targets and against other schedulers, on worlds made from a seed.

    python -m benchmarks.placement                prints tables; writes benchmarks/results/placement.json and the chart
    python -m benchmarks.placement --quick        worlds of a hundredth, once each, nothing written
    python -m benchmarks.placement --only Growth  only what begins so; with --merge into the last result, else unwritten
    python -m benchmarks.placement --profile FED-Mixed   where the time of one run goes
    python -m benchmarks.placement --render       the tables and the chart of docs/benchmarks.md from the result

Every repetition runs in a process of its own, cold; figures are medians. Fails where a target of the project is missed.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
from dataclasses import replace
from statistics import median
from typing import Final

from benchmarks import page
from benchmarks.machine import machine
from benchmarks.placement import contest, report
from benchmarks.placement.workloads import WORKLOADS, Figures, missed
from benchmarks.placement.worlds import Size

SMALLER: Final = 100


def main() -> int:
    """Measure, compare, print, write; 1 where a target is missed."""
    args = _arguments()
    if args.one is not None:
        print(json.dumps(_one(args.one, quick=args.quick)))
        return 0
    if args.profile is not None:
        return _profile(args.profile)
    if args.render:
        _render(report.read())
        return 0
    result = report.read() if args.merge and report.RESULT.exists() else report.empty(machine("numpy", "ortools"))
    names = _chosen(args.only or "")
    for name in (each for each in WORKLOADS if each in names):
        result["workloads"][name] = _line(name, args)
        _kept(result, args)
    for name in (each for each in contest.CONTESTS if each in names):
        result["contests"][name] = _contest(name, args)
        _kept(result, args)
    print(report.table(result))
    short = [f"{name}: {each}" for name, line in result["workloads"].items() for each in line["missed"]]
    print("\n".join(short) or "every target is reached")
    return 1 if short and not args.quick else 0


def _chosen(wanted: str) -> list[str]:
    """The one of just that name, else all whose name begins so."""
    names = [*WORKLOADS, *contest.CONTESTS]
    return [wanted] if wanted in names else [each for each in names if each.startswith(wanted)]


def _kept(result: report.Result, args: argparse.Namespace) -> None:
    """Written after every line, so that a run that is broken off keeps what it had."""
    if not args.quick and (args.merge or not args.only):
        report.write(result)
        _render(result)


def _render(result: report.Result) -> None:
    from benchmarks.placement import chart

    page.draw("placement", report.table(result))
    chart.draw(result)


def _one(name: str, *, quick: bool) -> Figures | list[contest.Entry]:
    if name in contest.CONTESTS:
        return contest.run(_scaled(contest.CONTESTS[name], quick=quick))
    workload = WORKLOADS[name]
    return workload.measure(_scaled(workload.size, quick=quick))


def _scaled(size: Size, *, quick: bool) -> Size:
    if not quick:
        return size
    jobs, offers = max(200, size.jobs // SMALLER), max(100, size.offers // SMALLER)
    return replace(size, jobs=jobs, offers=offers, classes=max(16, size.classes // SMALLER))


def _line(name: str, args: argparse.Namespace) -> report.Line:
    workload = WORKLOADS[name]
    runs: list[Figures] = []
    load = round(os.getloadavg()[0], 2)
    for number in range(1 if args.quick else args.repeats or workload.repeats):
        runs.append(json.loads(_child(name, args)))
        shown = ", ".join(f"{key} {value:g}" for key, value in runs[-1].items() if key in report.SHOWN)
        print(f"{name} #{number + 1}: {shown}", file=sys.stderr, flush=True)
    figures = {key: median(run[key] for run in runs) for key in runs[0]}
    return {
        "size": report.described(_scaled(workload.size, quick=args.quick)),
        "targets": dict(workload.targets),
        "figures": figures,
        "runs": runs,
        "load": load,
        "missed": missed(figures, workload.targets),
    }


def _contest(name: str, args: argparse.Namespace) -> report.Contest:
    print(f"{name}: placing the same world with each of the others", file=sys.stderr, flush=True)
    size = _scaled(contest.CONTESTS[name], quick=args.quick)
    load = round(os.getloadavg()[0], 2)
    return {"size": report.described(size), "load": load, "entries": json.loads(_child(name, args))}


def _child(name: str, args: argparse.Namespace) -> bytes:
    argv = [sys.executable, "-m", "benchmarks.placement", "--one", name, *(["--quick"] if args.quick else [])]
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout


def _profile(name: str) -> int:
    with cProfile.Profile() as profile:
        print(json.dumps(_one(name, quick=False)))
    pstats.Stats(profile).sort_stats("cumulative").print_stats(40)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="worlds of a hundredth, once each, nothing written")
    parser.add_argument("--only", help="only the workloads and contests whose name begins so")
    parser.add_argument("--merge", action="store_true", help="put new figures into the result that is there")
    parser.add_argument("--repeats", type=int, help="runs of each workload instead of its own number")
    parser.add_argument("--profile", choices=[*WORKLOADS], metavar="WORKLOAD", help="profile one run of it")
    parser.add_argument("--render", action="store_true", help="only draw docs/benchmarks.md and its chart anew")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
