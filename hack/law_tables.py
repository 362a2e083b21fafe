"""Reads the legal groups of countries from hack/law and writes what is made of them; no rule about placement.

A file there is one group: its `group` name, `title`, `source` (instrument, number, date), the `members` as ISO 3166-1
codes, a `note` on what is left out, `as_of` (the newest day that a source which was read speaks of), `checked` (the day
somebody looked whether it still holds), and `check`: what was held against what then, and what could not be.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

import yaml

FOLDER: Final = Path(__file__).resolve().parent / "law"
ORDER: Final = ("EU", "EEA", "EFTA", "SCHENGEN", "G7", "GDPR_ADEQUATE", "UK_ADEQUATE", "SWISS_ADEQUATE")
"""As people look for them; every file must be named here."""


@dataclass(frozen=True, slots=True)
class Source:
    """One legal act: what it is about, its number, and from when on."""

    instrument: str
    number: str
    date: date


@dataclass(frozen=True, slots=True)
class Group:
    """One file of hack/law."""

    name: str
    title: str
    as_of: date
    checked: date
    source: tuple[Source, ...]
    members: tuple[str, ...]
    note: str
    check: str


def load(folder: Path = FOLDER) -> list[Group]:
    """All groups in the order of `ORDER`; ValueError where a file and `ORDER` do not agree or a source is missing."""
    groups = {group.name: group for group in map(_read, sorted(folder.glob("*.yaml")))}
    if set(groups) != set(ORDER):
        raise ValueError(f"hack/law and ORDER name different groups: {sorted(set(groups) ^ set(ORDER))}")
    return [groups[name] for name in ORDER]


def law_date(groups: list[Group]) -> date:
    """The newest day on which any table was checked: the name of this state of the tables."""
    return max(group.checked for group in groups)


def data(groups: list[Group]) -> str:
    """The text of domain/data/groups.json."""
    document = {
        "source": "generated from hack/law by hack/generate.py; do not edit; sources and notes: docs/residency.md",
        "checked": str(law_date(groups)),
        "groups": {
            group.name: {"title": group.title, "asOf": str(group.as_of), "members": sorted(group.members)}
            for group in groups
        },
    }
    # One line of countries for each group, so that a change is read at a glance.
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return re.sub(r'\[\s+("[A-Z]{2}"[^\]]*?)\s+\]', lambda codes: f"[{' '.join(codes[1].split())}]", text) + "\n"


def table(groups: list[Group]) -> str:
    """The groups for people, as Markdown."""
    lines = ["| group | countries | what makes it so | as of |", "|---|---|---|---|"]
    for group in groups:
        acts = "; ".join(f"{each.instrument} ({each.number})" for each in group.source)
        codes = " ".join(sorted(group.members))
        lines.append(f"| `{group.name}`: {group.title} | {codes} | {acts} | {group.as_of} |")
    notes = [f"- `{group.name}`: {' '.join(group.note.split())}" for group in groups]
    checks = [f"- `{group.name}` ({group.checked}): {' '.join(group.check.split())}" for group in groups]
    told = "What was held against what, and when. Stored copies of public pages were read, not the pages of that day."
    return "\n".join([*lines, "", *notes, "", told, "", *checks, ""])


def _read(path: Path) -> Group:
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    source = tuple(Source(str(each["instrument"]), str(each["number"]), _day(path, each)) for each in raw["source"])
    members = tuple(str(code) for code in raw["members"])
    if not source or len(set(members)) != len(members):
        raise ValueError(f"{path.name}: no source, or a member twice")
    return Group(
        str(raw["group"]),
        str(raw["title"]),
        _day(path, raw, "as_of"),
        _day(path, raw, "checked"),
        source,
        members,
        str(raw["note"]),
        str(raw["check"]),
    )


def _day(path: Path, raw: dict[str, object], key: str = "date") -> date:
    day = raw[key]
    if not isinstance(day, date):
        raise ValueError(f"{path.name}: {key} is no day such as 2026-01-31")  # noqa: TRY004 - a file is wrong, no type
    return day
