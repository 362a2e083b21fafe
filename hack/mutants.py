"""Counts what a run of mutmut found, package by package, and fails if too many mutants survived: `make mutants`.

Which packages are mutated, and which tests judge the mutants, is in pyproject.toml under tool.mutmut. A mutant that no
test runs has survived. `python -m mutmut show NAME` shows a survivor; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

REQUIRED = 0.85
"""The share of mutants that must die."""
FOUND = Path("mutants/src/fedgpu_operator")

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


def main() -> int:
    """Print the counts and the survivors; 1 if a package is below what is required or was not checked to its end."""
    counts = count(FOUND.rglob("*.py.meta"), FOUND)
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
