"""docs/walkthrough.md names files, and functions in them, that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "walkthrough.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`([A-Za-z_.]+)`(?:\s+and\s+`([A-Za-z_.]+)`)?\s+in\s+`([\w/-]+\.(?:py|sol))`")


def text_of(path: str) -> str:
    folder = ROOT if path.startswith(("contracts/", "helm/")) else ROOT / "src" / "fedgpu_operator"
    return (folder / path).read_text(encoding="utf-8")


def test_every_file_that_the_walk_passes_is_there() -> None:
    files = set(re.findall(r"`([a-z][\w-]*(?:/[\w-]+)*\.(?:py|sol))`", PAGE))
    assert len(files) > 30
    assert [path for path in sorted(files) if not text_of(path)] == []


def test_every_step_is_found_in_the_file_that_is_named_for_it() -> None:
    found = [(name, path) for *names, path in NAMED.findall(PAGE) for name in names if name]
    assert len(found) > 40
    missing = []
    for name, path in found:
        text = text_of(path)
        for part in name.split("."):
            if not re.search(rf"\b(?:def|class|function) {part}\b|^{part}\b.*=", text, re.MULTILINE):
                missing.append(f"{name} in {path}")
    assert missing == []
