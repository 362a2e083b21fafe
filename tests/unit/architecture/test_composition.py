"""Loops are given the services that they call: only the composition root makes any, and each of them once."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

LOOPS: Final = Path(__file__).resolve().parents[3] / "src" / "fedgpu_operator" / "hub" / "loops"
OWN: Final = frozenset({"ChangeDetector", "ObjectCounts"})
"""What a loop remembers of its own passes is no service."""
VALUES: Final = frozenset({"IntentProgress", "MarketDocument", "Obligations", "QuotedOffer"})


def made_services(source: str) -> list[str]:
    """Classes of hub/services that this module calls."""
    tree = ast.parse(source)
    imported = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fedgpu_operator.hub.services.")
        for name in node.names
        if name.name[:1].isupper() and not name.name.isupper()
    }
    called = {each.func.id for each in ast.walk(tree) if isinstance(each, ast.Call) and isinstance(each.func, ast.Name)}
    return sorted(imported & called)


def test_no_loop_makes_a_service() -> None:
    found = {path.name: made_services(path.read_text(encoding="utf-8")) for path in sorted(LOOPS.glob("*.py"))}
    wrong = {name: classes for name, all_of in found.items() if (classes := sorted({*all_of} - OWN - VALUES))}
    assert wrong == {}, "have bootstrap/factory.py make it, and the loop take it"


def test_the_checker_finds_a_service_that_is_made() -> None:
    source = "from fedgpu_operator.hub.services.costs import COOL, FaultBook, look\nFaultBook(look(COOL))\n"
    assert made_services(source) == ["FaultBook"]
