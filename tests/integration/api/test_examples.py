"""The examples that people copy are taken by a real API server as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
FILES = sorted(EXAMPLES.rglob("*.yaml"))


def test_there_are_enough_to_learn_from() -> None:
    kinds = [document["kind"] for file in FILES for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))]
    assert kinds.count("GPUProvider") >= 4
    assert kinds.count("ComputeJob") >= 8


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(EXAMPLES)))
def test_an_example_is_taken(file: Path, counter: Any) -> None:
    """A dry run looks for the namespace, so each document is judged in one that exists."""
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
        if document["metadata"].get("namespace"):
            document["metadata"]["namespace"] = counter.namespace
        counter.kubectl("create", "--dry-run=server", "-f", "-", document=document)
