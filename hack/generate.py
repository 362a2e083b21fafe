"""Writes the files that are generated from the sources, or with --check names those that differ.

Add a generator to `GENERATORS` to add a kind of generated file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from fedgpu_operator.api.crd import crd, to_yaml
from fedgpu_operator.api.registry import KINDS

ROOT = Path(__file__).resolve().parent.parent

Generator = Callable[[], Mapping[str, str]]
"""Answers file name -> text of everything that may stand in its folder."""


def crds() -> dict[str, str]:
    """One file per kind, named as the CRD's plural is."""
    header = "# Generated from src/fedgpu_operator/api by hack/generate.py; do not edit.\n"
    return {f"{kind.info.plural}.yaml": header + to_yaml(crd(kind)) for kind in KINDS}


GENERATORS: Mapping[str, Generator] = {"crds": crds, "helm/fedgpu-operator/crds": crds}
"""Folder below the repository's root -> what generates all of it; Helm packs no links, so the chart has copies."""


def drift(root: Path, generators: Mapping[str, Generator] = GENERATORS) -> list[str]:
    """Paths, relative to `root`, that are missing, that differ, or that nothing generates any more."""
    found = []
    for folder, generator in generators.items():
        wanted = generator()
        present = {path.name for path in (root / folder).glob("*")}
        found += [f"{folder}/{name}" for name in sorted(present - wanted.keys())]
        for name, text in wanted.items():
            path = root / folder / name
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                found.append(f"{folder}/{name}")
    return sorted(found)


def write(root: Path, generators: Mapping[str, Generator] = GENERATORS) -> None:
    """Make the folders hold exactly what the generators answer."""
    for folder, generator in generators.items():
        wanted = generator()
        (root / folder).mkdir(parents=True, exist_ok=True)
        for path in (root / folder).glob("*"):
            if path.name not in wanted:
                path.unlink()
        for name, text in wanted.items():
            (root / folder / name).write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run as a script; exit code 1 says that --check found a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 naming every file that differs")
    if not parser.parse_args(arguments).check:
        write(root)
        return 0
    stale = drift(root)
    for path in stale:
        print(f"{path} differs from its source: run `python hack/generate.py` and commit", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
