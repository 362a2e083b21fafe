"""Writes the files that are generated from the sources, or with --check names those that differ.

Add a generator to `GENERATORS` to add a kind of generated file.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, only this folder is there
from hack import cli_reference, law_tables

from fedgpu_operator.adapters.chain import wordings
from fedgpu_operator.adapters.metrics import PrometheusMetrics
from fedgpu_operator.api import reasons
from fedgpu_operator.api.crd import crd, to_yaml
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.settings import ChainSettings, Group, Settings, SignerSettings
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
    "src/fedgpu_operator/domain/data/groups.json": lambda: law_tables.data(law_tables.load()),
    "docs/cli.md": cli_reference.page,
}
"""File below the root -> what generates all of it; its neighbours are written by hand."""


Section = tuple[str, Callable[[], str]]
"""The name of a section and what generates its lines."""


def settings_table(group: type[Group]) -> str:
    """One row per setting of a group, its own before those that it inherits."""
    rows = ["| variable | default | unit | meaning | value of the chart |", "|---|---|---|---|---|"]
    own = {
        str(group.model_fields[name].validation_alias) for name in group.__annotations__ if name in group.model_fields
    }
    for variable, field in sorted(group.variables(), key=lambda each: each[0] not in own):
        default = f"`{field.default}`" if isinstance(field.default, str) and field.default else "none"
        known = field.json_schema_extra
        assert isinstance(known, dict)  # noqa: S101  # `setting` sees to it
        cells = (f"`{variable}`", default, known["unit"], field.description, known["chart"])
        rows.append(f"| {' | '.join(map(str, cells))} |".replace("|  |", "| |"))
    return "\n".join(rows) + "\n"


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric as `/metrics` shows it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def instruments() -> list[Instrument]:
    """Every metric that the operator serves, by name."""
    registry = PrometheusMetrics(CollectorRegistry()).registry
    found = []
    for each in list(registry._collector_to_names):  # noqa: SLF001  # no public way leads to labels without samples
        assert isinstance(each, MetricWrapperBase)  # noqa: S101
        (family,) = each.describe()
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = ("version", "python_version") if family.type == "info" else each._labelnames  # noqa: SLF001
        found.append(Instrument(family.name + suffix, family.type, tuple(labels), family.documentation))
    return sorted(found, key=lambda each: each.name)


def metrics_table() -> str:
    """One row per metric."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for each in instruments():
        labels = ", ".join(f"`{label}`" for label in each.labels)
        text = each.help.replace("<error>", "`<error>`")
        rows.append(f"| `{each.name}` | {each.kind} | {labels} | {text} |".replace("|  |", "| |"))
    return "\n".join(rows) + "\n"


def decisions_table() -> str:
    """One row per page of docs/decisions; ValueError for one without a heading that begins with its number."""
    rows = ["| | decision | state |", "|--:|---|---|"]
    for path in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        text = path.read_text(encoding="utf-8")
        heading = re.match(r"# (\d+)\. (.+)\n", text)
        if heading is None or int(heading[1]) != int(path.name[:4]):
            raise ValueError(f"{path.name}: must begin with `# {int(path.name[:4])}. TITLE`")
        state = re.search(r"^\*\*State\.\*\* ([^:\n]+)", text, re.MULTILINE)
        rows.append(f"| {heading[1]} | [{heading[2]}]({path.name}) | {state[1] if state else 'Accepted'} |")
    return "\n".join(rows) + "\n"


SECTIONS: Mapping[str, Sequence[Section]] = {
    "docs/settlement.md": [("protocol", lambda: f"```mermaid\n{protocol.diagram()}```\n")],
    "docs/chains.md": [("answers", wordings.table)],
    "docs/reasons.md": [("reasons", reasons.table)],
    "docs/residency.md": [("law", lambda: law_tables.table(law_tables.load()))],
    "docs/configuration.md": [
        ("settings", lambda: settings_table(Settings)),
        ("chain", lambda: settings_table(ChainSettings)),
        ("signer", lambda: settings_table(SignerSettings)),
    ],
    "docs/metrics.md": [("metrics", metrics_table)],
    "docs/decisions/README.md": [("decisions", decisions_table)],
}
"""File below the root -> its generated sections; the rest of the file is written by hand."""


def with_sections(text: str, sections: Sequence[Section]) -> str:
    """The text with the lines between the two markers of each generated; ValueError if it has no such markers."""
    for name, generator in sections:
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->\n"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"no lines {begin.strip()} … {end.strip()} to write between")
        text = before + begin + generator() + end + after
    return text


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


def stale_sections(root: Path, sections: Mapping[str, Sequence[Section]] = SECTIONS) -> list[str]:
    """Paths, relative to `root`, of files with a section that differs from what generates it."""
    texts = {name: (root / name).read_text(encoding="utf-8") for name in sections}
    return sorted(name for name, parts in sections.items() if with_sections(texts[name], parts) != texts[name])


def write_sections(root: Path, sections: Mapping[str, Sequence[Section]] = SECTIONS) -> None:
    """Write every generated section into its file."""
    for name, parts in sections.items():
        path = root / name
        path.write_text(with_sections(path.read_text(encoding="utf-8"), parts), encoding="utf-8")


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
