"""A month in the books: what they weigh, what a pass costs, memory and restart, beside the same of commit 32e03ab.

    python -m benchmarks.month            both builds, both engines, into benchmarks/results and the docs
    python -m benchmarks.month --quick    a thousandth of it in SQLite, nothing written
    python -m benchmarks.month --render   the docs' table from the file, again

The month comes from a seed (`history.py`), loaded once per engine as a ledger of the schema of 32e03ab; each build gets
a copy, and the present one upgrades it. Every part runs in a process of its own (`drive.py`, `day.py`): the earlier
build's by the same scripts, with its sources, taken from this repository's history, before ours on PYTHONPATH. A hub in
memory (`hub.py`) and a chain that stands still (`chain.py`) are around the operator, which its own composition root
assembles.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from benchmarks import page
from benchmarks.machine import machine
from benchmarks.month import report
from benchmarks.month.drive import Scene
from benchmarks.month.history import Month, Size, make
from benchmarks.month.load import load

from fedgpu_lab.postgres import running
from fedgpu_operator.domain.money import SECONDS_PER_HOUR

BEFORE: Final = "32e03ab"
ROOT: Final = Path(__file__).parents[2]
ENGINES: Final = ("sqlite", "postgresql")
MEMORY: Final = Path("/dev/shm")  # noqa: S108  # a folder of a name of our own is made in it
"""Where commits need not wait for a disk: days are weighed there, not timed."""
ROUNDS: Final = 5
"""How often an unchanged pass with settlement and one without are measured in turns; the medians count."""
Figures = dict[str, Any]


def main() -> int:
    """Measure, print, write; 1 if a bound is missed."""
    options = _arguments()
    if options.render:
        page.draw("month", report.table(report.read()))
        return 0
    began = time.monotonic()
    size = Size.small() if options.quick else Size()
    where = machine()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedgpu-month-")))
        builds = {"present": ROOT / "src", **({} if options.alone else {BEFORE: earlier(folder)})}
        month = make(size)
        say(began, f"a month: {len(month.attempts):,} attempts, {len(month.records):,} records")
        scene = write_scene(month, folder, options)
        results: dict[str, dict[str, Figures]] = {name: {} for name in builds}
        for engine in options.engines:
            with places(engine, folder) as made:
                load(made.template, month)
                say(began, f"{engine}: loaded, {made.bytes() / 2**20:,.0f} MiB")
                for name, sources in builds.items():
                    results[name][engine] = measure(made, sources, scene, options)
                    say(began, f"{engine}: {name}: {report.line(results[name][engine])}")
    document = {
        "what": "a month in the books: a pass, memory and restart over it, and the bytes of a day",
        "before": BEFORE,
        "machine": where,
        "size": {
            part: getattr(size, part) for part in ("providers", "tenants", "finished", "epochs", "running", "waiting")
        },
        "seed": size.seed,
        "builds": results,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(f"\n{report.table(document)}\n")
    if not options.quick:
        report.write(document)
        page.draw("month", report.table(document))
    return 0 if report.met(document) or options.quick else 1


def measure(made: Places, sources: Path, scene: Path, options: argparse.Namespace) -> Figures:
    """All parts of one build on one engine."""
    place, empty = made.copy(), made.empty()
    leases, hours = (1, 1) if options.quick else (options.leases, options.hours)
    # One after the other: what is weighed beside a pass costs that pass a third more CPU on a core of two threads.
    found: Figures = {"day": child(["benchmarks.month.day", str(leases), str(hours)], sources, empty)}

    def part(name: str) -> Figures:
        return child(["benchmarks.month.drive", name, str(scene)], sources, place)

    found |= part("passes")
    # In turns, so that what a machine does meanwhile meets both alike. The earlier build's passes take seconds each.
    rounds = [part("on") | part("off") for _ in range(ROUNDS if sources == ROOT / "src" else 1)]
    for name in rounds[0]:
        found[name] = sorted((each[name] for each in rounds), key=lambda each: each["cpuSeconds"])[len(rounds) // 2]
    found |= part("restart")
    if sources == ROOT / "src":
        found |= part("verify")
    return found


def child(arguments: list[str], sources: Path, location: str) -> Figures:
    """What a script prints, run with those sources."""
    env = os.environ | {"PYTHONPATH": str(sources), "LOCATION": location}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[:2])} failed:\n{done.stderr[-3000:]}")
    found: Figures = json.loads(done.stdout)
    return found


def earlier(folder: Path) -> Path:
    """The sources of the commit that figures are held against, from this repository's history."""
    packed = subprocess.run(["git", "archive", BEFORE, "src"], cwd=ROOT, stdout=subprocess.PIPE, check=False)  # noqa: S607
    if packed.returncode:
        raise SystemExit(f"commit {BEFORE} is not in this checkout: fetch the whole history, or give --alone")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder / BEFORE, filter="data")
    return folder / BEFORE / "src"


def write_scene(month: Month, folder: Path, options: argparse.Namespace) -> Path:
    """What the children need of the month, without its past."""
    owed: Mapping[Any, int] = {}
    for _, totals in month.numerators():
        owed = totals
    paid = {(p.tenant_wallet, p.provider_wallet): total // SECONDS_PER_HOUR for p, total in owed.items()}
    slim = replace(month, attempts=tuple(month.running), records=())
    path = folder / "scene"
    scene = Scene(slim, paid, str(folder / "hub.json"), options.repeats, options.changes)
    path.write_bytes(pickle.dumps(scene))
    return path


class Places:
    """Where ledgers lie on one engine: a template with the month, copies of it, and empty ones."""

    def __init__(self, template: str) -> None:
        self.template = template

    def copy(self) -> str:
        raise NotImplementedError

    def empty(self) -> str:
        raise NotImplementedError

    def bytes(self) -> int:
        from benchmarks.month.day import size_of

        return size_of(self.template)


class Files(Places):
    """SQLite: files in a folder, days in memory."""

    def __init__(self, folder: Path, memory: Path) -> None:
        super().__init__(str(folder / "month.db"))
        self._folder, self._memory, self._made = folder, memory, 0

    def copy(self) -> str:
        self._made += 1
        place = self._folder / f"copy-{self._made}.db"
        shutil.copyfile(self.template, place)
        return str(place)

    def empty(self) -> str:
        self._made += 1
        place = self._memory / f"day-{self._made}"
        place.mkdir()
        return str(place / "day.db")


class Databases(Places):
    """PostgreSQL: databases of the lab's server."""

    def __init__(self, server: Any) -> None:
        super().__init__(server.create())
        self._server = server

    def copy(self) -> str:
        return str(self._server.create(like=self.template.rsplit("/", 1)[1]))

    def empty(self) -> str:
        return str(self._server.create())


@contextmanager
def places(engine: str, folder: Path) -> Iterator[Places]:
    """The places of that engine, gone at the end."""
    if engine == "postgresql":
        with running() as server:
            yield Databases(server)
        return
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fedgpu-month-", dir=memory) as days:
        yield Files(folder, Path(days))


def say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a thousandth in SQLite, nothing written")
    parser.add_argument("--render", action="store_true", help="draw the docs' table from the file")
    parser.add_argument("--alone", action="store_true", help="the present build only")
    parser.add_argument("--engines", type=lambda text: tuple(text.split(",")), default=None)
    parser.add_argument("--repeats", type=int, default=9, help="unchanged passes; the median counts")
    parser.add_argument("--changes", type=int, default=3, help="passes with each kind of change; the median counts")
    parser.add_argument("--leases", type=int, default=8, help="running leases that are weighed")
    parser.add_argument("--hours", type=int, default=12, help="hours that are weighed")
    options = parser.parse_args()
    if options.engines is None:
        options.engines = ("sqlite",) if options.quick else ENGINES
    return options


if __name__ == "__main__":
    sys.exit(main())
