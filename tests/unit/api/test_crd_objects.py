"""The full objects of the integration tests name every field there is, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedgpu_operator.api.base import Resource
from fedgpu_operator.api.crd import root_schema, walk
from fedgpu_operator.api.registry import KINDS

NOT_TOGETHER = {
    "ComputeJob": {
        "spec.latency.from.vantage",
        "spec.latency.from.region",
        "spec.latency.from.country",
        "spec.strategy.preset",
    },
}
"""Fields that a rule allows only without others which the full object has."""


def paths(value: Any, path: str) -> Iterator[str]:
    """Paths of an object as `walk` writes them for a schema."""
    if isinstance(value, dict):
        for key, item in value.items():
            here = f"{path}.{key}"
            yield here
            yield from paths(item, here)
    elif isinstance(value, list):
        for item in value:
            yield from paths(item, f"{path}[*]")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_full_objects_name_every_field(kind: type[Resource], repository: Path) -> None:
    file = repository / "tests/integration/api/objects/full" / f"{kind.__name__.lower()}.yaml"
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    said = {path for part in ("spec", "status") for path in paths(document.get(part, {}), part)}
    known = {
        path
        for path, node in walk(root_schema(kind))
        if path.startswith(("spec.", "status.")) and not path.endswith(("[*]", "{*}"))
    }
    not_together = NOT_TOGETHER.get(kind.__name__, set())
    assert sorted(known - said - not_together) == [], "a new field needs its place in the full object"
    kind.parse(document)


@pytest.mark.parametrize("size", ["minimal", "full"])
def test_there_is_one_object_per_kind(size: str, repository: Path) -> None:
    files = {path.stem for path in (repository / "tests/integration/api/objects" / size).glob("*.yaml")}
    assert files == {kind.__name__.lower() for kind in KINDS}
