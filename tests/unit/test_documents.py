"""What the documents name is there: tests that the threat page leans on, decisions with their state, linked files."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DECISIONS = ROOT / "docs" / "decisions"
LINKED = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
LISTED = re.compile(r"^\| \d+ \| \[[^\]]+\]\(([^)]+)\) \| ([^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"`(test_\w+)`")
DEFINED = re.compile(r"(?:def|function) (test_\w+)\(")


def test_every_test_that_the_settlement_page_names_exists() -> None:
    named = set(TEST.findall((ROOT / "docs" / "settlement.md").read_text(encoding="utf-8")))
    assert len(named) > 30
    sources = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "contracts" / "test").rglob("*.sol")]
    defined = {name for path in sources for name in DEFINED.findall(path.read_text(encoding="utf-8"))}
    assert named - defined == set()


def test_the_index_of_decisions_lists_every_page_with_its_state() -> None:
    listed = dict(LISTED.findall((DECISIONS / "README.md").read_text(encoding="utf-8")))
    assert list(listed) == sorted(path.name for path in DECISIONS.glob("[0-9]*.md"))
    for name, state in listed.items():
        assert re.match(r"Accepted$|Superseded |Confirmed ", state), f"{name}: {state}"


def test_a_decision_that_another_supersedes_says_so_itself() -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in DECISIONS.glob("[0-9]*.md")}
    named = {
        target
        for text in pages.values()
        for sentence in re.findall(r"[Ss]upersedes[^\n]*", text)
        for target in LINKED.findall(sentence)
    }
    assert named, "decision 19 supersedes a part of decision 9"
    assert [name for name in named if "**State.** Superseded" not in pages[name]] == []


def test_what_the_guides_link_to_is_there() -> None:
    guides = ("CONTRIBUTING.md", "SECURITY.md", "docs/operations.md", "docs/metrics.md", "docs/decisions/README.md")
    for name in guides:
        for target in LINKED.findall((ROOT / name).read_text(encoding="utf-8")):
            there = "://" in target or ((ROOT / name).parent / target).exists()
            assert there, f"{name} links to {target}"
