"""What the documents name is there: every test that the threat page leans on exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEST = re.compile(r"`(test_\w+)`")
DEFINED = re.compile(r"(?:def|function) (test_\w+)\(")


def test_every_test_that_the_settlement_page_names_exists() -> None:
    named = set(TEST.findall((ROOT / "docs" / "settlement.md").read_text(encoding="utf-8")))
    assert len(named) > 30
    sources = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "contracts" / "test").rglob("*.sol")]
    defined = {name for path in sources for name in DEFINED.findall(path.read_text(encoding="utf-8"))}
    assert named - defined == set()
