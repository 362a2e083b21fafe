"""Writes the files that are generated from the sources, or with --check names those that differ.

Add a generator to `GENERATORS` to add a kind of generated file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, only this folder is there
from hack import cli_reference, law_tables

from fedgpu_operator.adapters.chain import wordings
from fedgpu_operator.api.crd import crd, to_yaml
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.settlement import protocol

ROOT = Path(__file__).resolve().parent.parent

Generator = Callable[[], Mapping[str, str]]
"""Answers file name -> text of everything that may stand in its folder."""


def crds() -> dict[str, str]:
    """One file per kind, named as the CRD's plural is."""
    header = "# Generated from src/fedgpu_operator/api by hack/generate.py; do not edit.\n"
    return {f"{kind.info.plural}.yaml": header + to_yaml(crd(kind)) for kind in KINDS}


GENERATORS: Mapping[str, Generator] = {"crds": crds, "helm/fedgpu-operator/crds": crds}
"""Folder below the repository's root -> what generates all of it; Helm packs no links, so the chart has copies."""

FILES: Mapping[str, Callable[[], str]] = {
    "src/fedgpu_operator/domain/geo_groups.py": lambda: law_tables.module(law_tables.load()),
    "docs/cli.md": cli_reference.page,
}
"""File below the root -> what generates all of it; its neighbours are written by hand."""


Section = tuple[str, Callable[[], str]]
"""The name of a section and what generates its lines."""

SECTIONS: Mapping[str, Section] = {
    "docs/settlement.md": ("protocol", lambda: f"```mermaid\n{protocol.diagram()}```\n"),
    "docs/chains.md": ("answers", wordings.table),
    "docs/residency.md": ("law", lambda: law_tables.table(law_tables.load())),
}
"""File below the root -> the section of it that is generated; the rest of the file is written by hand."""


def with_section(text: str, section: Section) -> str:
    """The text with the lines between its two markers made anew; ValueError where it has no such markers."""
    name, generator = section
    begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->\n"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no lines {begin.strip()} … {end.strip()} to write between")
    return before + begin + generator() + end + after


def drift(root: Path, generators: Mapping[str, Generator] = GENERATORS) -> list[str]:
    """Paths, relative to `root`, that are missing, that differ, or that nothing generates any more."""
    found = [name for name, generator in FILES.items() if not _holds(root / name, generator())]
    for folder, generator in generators.items():
        wanted = generator()
        present = {path.name for path in (root / folder).glob("*")}
        found += [f"{folder}/{name}" for name in sorted(present - wanted.keys())]
        for name, text in wanted.items():
            if not _holds(root / folder / name, text):
                found.append(f"{folder}/{name}")
    return sorted(found)


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def write(root: Path, generators: Mapping[str, Generator] = GENERATORS) -> None:
    """Make the files and folders hold exactly what the generators answer."""
    for name, text in ((name, generator()) for name, generator in FILES.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    for folder, generator in generators.items():
        wanted = generator()
        (root / folder).mkdir(parents=True, exist_ok=True)
        for path in (root / folder).glob("*"):
            if path.name not in wanted:
                path.unlink()
        for name, text in wanted.items():
            (root / folder / name).write_text(text, encoding="utf-8")


def stale_sections(root: Path, sections: Mapping[str, Section] = SECTIONS) -> list[str]:
    """Paths, relative to `root`, of files with a section that differs from what generates it."""
    texts = {name: (root / name).read_text(encoding="utf-8") for name in sections}
    return sorted(name for name, section in sections.items() if with_section(texts[name], section) != texts[name])


def write_sections(root: Path, sections: Mapping[str, Section] = SECTIONS) -> None:
    """Write every generated section into its file."""
    for name, section in sections.items():
        path = root / name
        path.write_text(with_section(path.read_text(encoding="utf-8"), section), encoding="utf-8")


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Run as a script; exit code 1 says that --check found a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 naming every file that differs")
    if not parser.parse_args(arguments).check:
        write(root)
        write_sections(root)
        return 0
    stale = drift(root) + stale_sections(root)
    for path in stale:
        print(f"{path} differs from its source: run `python hack/generate.py` and commit", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
