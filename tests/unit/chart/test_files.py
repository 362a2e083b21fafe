"""The chart's files agree with each other and with the project; nothing is rendered here."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "fedgpu-operator"
ROW = re.compile(r"^\| `(?P<name>[A-Za-z0-9.]+)` \| `(?P<default>[^`]*)` \|")
OPEN = {"global", "affinity", "valueFrom"}
"""Objects that are passed on as Kubernetes or a parent chart defines them."""

Json = dict[str, Any]


@pytest.fixture(scope="module")
def values() -> Json:
    found: Json = yaml.safe_load((CHART / "values.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def schema() -> Json:
    found: Json = json.loads((CHART / "values.schema.json").read_text())
    return found


def leaves(tree: Json, path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key, value


def objects(schema: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every object schema with properties of its own or none at all, with its path."""
    if schema.get("type") == "object":
        yield path, schema
    for key, sub in schema.get("properties", {}).items():
        yield from objects(sub, f"{path}/{key}")
    if "items" in schema:
        yield from objects(schema["items"], f"{path}/*")


def test_the_crds_are_the_generated_ones() -> None:
    generated = {path.name: path.read_bytes() for path in (ROOT / "crds").glob("*.yaml")}
    packaged = {path.name: path.read_bytes() for path in (CHART / "crds").iterdir()}
    assert generated
    assert packaged == generated


def test_the_chart_has_the_projects_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["name"] == project["name"]
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_the_readme_lists_every_value_with_its_default(values: Json) -> None:
    lines = (CHART / "README.md").read_text().splitlines()
    rows = [(match["name"], json.loads(match["default"])) for line in lines if (match := ROW.match(line))]
    assert rows == list(leaves(values))


def test_every_value_is_in_the_schema(values: Json, schema: Json) -> None:
    for path, _ in leaves(values):
        node = schema
        for key in path.split("."):
            node = node.get("properties", {}).get(key) or node.get("additionalProperties") or {}
            if ref := node.get("$ref"):
                node = schema["$defs"][ref.rsplit("/", 1)[1]]
            assert node, f"values.schema.json knows nothing of {path}"


def test_the_schema_knows_no_value_that_the_chart_has_not(values: Json, schema: Json) -> None:
    def known(node: Json, path: str = "") -> Iterator[str]:
        for key, sub in node.get("properties", {}).items():
            found = schema["$defs"][sub["$ref"].rsplit("/", 1)[1]] if "$ref" in sub else sub
            below = list(known(found, f"{path}{key}."))
            yield from below or [path + key]

    assert set(known(schema["properties"]["chain"])) == {path for path, _ in leaves(values["chain"])}
    assert set(known(schema["properties"]["ledger"])) == {path for path, _ in leaves(values["ledger"])}


def test_the_schema_refuses_what_it_does_not_know(schema: Json) -> None:
    for path, node in objects(schema):
        if path.rsplit("/", 1)[-1] not in OPEN:
            assert node.get("additionalProperties") is False, f"{path or 'the top level'} takes any key"


def test_no_value_can_hold_a_key_of_its_own(schema: Json) -> None:
    """A value that has to do with a secret is the name of a Secret and of its entries, and nothing else."""
    chain, secret = schema["properties"]["chain"]["properties"], schema["$defs"]["secret"]
    assert set(secret["properties"]) == {"name", "key"}
    assert set(chain["settler"]["properties"]["keystoreSecret"]["properties"]) == {"name", "key", "passwordKey"}
    given = [
        chain["rpcURLSecret"],
        chain["meterKeySecret"],
        chain["caSecret"],
        chain["settler"]["properties"]["keySecret"],
    ]
    given.append(schema["properties"]["ledger"]["properties"]["urlSecret"])
    assert all(one["$ref"] == "#/$defs/secret" for one in given)
    assert {name for name in chain if "key" in name.lower()} == {"meterKeySecret"}
