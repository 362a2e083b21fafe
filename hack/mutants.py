"""Counts what a run of mutmut found, package by package, and fails if too many mutants survived: `make mutants`.

Which packages are mutated, and which tests judge the mutants, is in pyproject.toml under tool.mutmut. A mutant that no
test runs has survived. `python -m mutmut show NAME` shows a survivor; a run that was stopped goes on where it was.

`python -m hack.mutants src/fedgpu_operator/hub/services/costs.py tests/unit/hub/test_costs.py` mutates that file alone,
with those tests as judges, in a folder of its own: `cd mutants/parts/costs` for `mutmut show`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REQUIRED = 0.85
"""The share of mutants that must die."""
FOUND = Path("mutants/src/fedgpu_operator")
PARTS = Path("mutants/parts")
ROOT = Path(__file__).resolve().parents[1]

KILLED = {1, 3, 24, 36, 152, 255, -24}
"""mutmut's exit codes of mutants that a test failed on, or that never ended."""


@dataclass
class Count:
    """What became of the mutants of one package."""

    killed: int = 0
    unchecked: int = 0
    survivors: list[str] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Of the mutants that were checked, how many died; 0 if none was."""
        checked = self.killed + len(self.survivors)
        return self.killed / checked if checked else 0.0


def count(files: Iterable[Path], root: Path) -> dict[str, Count]:
    """What mutmut wrote beside each file that it mutated, by package."""
    counts: defaultdict[str, Count] = defaultdict(Count)
    for file in sorted(files):
        codes: dict[str, int | None] = json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]
        package = counts[str(file.parent.relative_to(root))]
        for name, code in codes.items():
            if code is None:
                package.unchecked += 1
            elif code in KILLED:
                package.killed += 1
            else:
                package.survivors.append(name)
    return {name: found for name, found in counts.items() if found.killed or found.unchecked or found.survivors}


def settings_of_part(pyproject: str, file: str, tests: Sequence[str]) -> str:
    """The project's settings with these in place of what is mutated and what judges."""
    for name, values in (("only_mutate", [file]), ("pytest_add_cli_args_test_selection", list(tests))):
        pyproject, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {json.dumps(values)}", pyproject)
        if count != 1:
            raise SystemExit(f"error: pyproject.toml has {count} lines that set {name}")
    return pyproject


def run_part(file: str, tests: Sequence[str]) -> Path:
    """Run mutmut on one file in a folder that shows it the project with other settings; where its results are."""
    folder = ROOT / PARTS / Path(file).stem
    folder.mkdir(parents=True, exist_ok=True)
    # Else mutmut would let the answers of an earlier run stand, whatever the tests are by now.
    shutil.rmtree(folder / "mutants", ignore_errors=True)
    for each in ROOT.iterdir():
        link = folder / each.name
        if not each.name.startswith(".") and each.name not in ("mutants", "pyproject.toml") and not link.is_symlink():
            link.symlink_to(each)
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (folder / "pyproject.toml").write_text(settings_of_part(pyproject, file, tests), encoding="utf-8")
    # One at a time: it is for a desk at which somebody works.
    subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", "1"], cwd=folder, check=True)
    return folder / FOUND


def main(argv: Sequence[str] | None = None) -> int:
    """Print the counts and the survivors; 1 if a package is below what is required or was not checked to its end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="mutate this file alone; without it, count what `mutmut run` found")
    parser.add_argument("tests", nargs="*", help="what judges its mutants; tests/unit/hub if nothing is named")
    args = parser.parse_args(argv)
    found = run_part(args.file, args.tests or ["tests/unit/hub"]) if args.file else FOUND
    return judge(count(found.rglob("*.py.meta"), found))


def judge(counts: dict[str, Count]) -> int:
    """Print the counts and the survivors; the exit code."""
    for name, found in counts.items():
        for survivor in found.survivors:
            print(f"survived: {survivor}")
        print(
            f"{name}: {found.share:.1%} died: {found.killed} killed, {len(found.survivors)} survived, "
            f"{found.unchecked} not checked"
        )
    failed = not counts or any(found.unchecked or found.share < REQUIRED for found in counts.values())
    if failed:
        print(f"error: at least {REQUIRED:.0%} of the mutants of each package must die", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
