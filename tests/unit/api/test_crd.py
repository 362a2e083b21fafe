"""Every kind's CRD: what people, kstatus and `kubectl` rely on, whatever the kind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
import yaml
from pydantic import Field

from fedgpu_operator.api.base import READY_COLUMN, Column, JSONObject, KindInfo, Resource
from fedgpu_operator.api.computejob import ComputeJob
from fedgpu_operator.api.computelease import ComputeLease
from fedgpu_operator.api.crd import VALIDATIONS, all_crds, crd, root_schema, to_yaml, walk
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.errors import ConfigurationError

LAST_APPLIED_LIMIT = 262_144
"""Bytes of annotations that an API server takes; client-side apply puts the whole object into one."""

NAMES = {
    "GPUProvider": ("gpuproviders", "gpup", "Cluster"),
    "ProviderReport": ("providerreports", "gpur", "Namespaced"),
    "ComputeJob": ("computejobs", "cjob", "Namespaced"),
    "ComputeLease": ("computeleases", "clease", "Namespaced"),
    "ComputeAccount": ("computeaccounts", "cacct", "Namespaced"),
    "PlacementPolicy": ("placementpolicies", "ppol", "Cluster"),
    "SettlementEpoch": ("settlementepochs", "sepoch", "Cluster"),
}
JOB_PARTS = {"status.placement", "status.usage", "status.settlement", "status.conditions[*]"}
LEASE_PARTS = {"spec", "spec.workload", "status.usage", "status.conditions[*]"}

per_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def schema_at(root: JSONObject, json_path: str) -> JSONObject | None:
    """The schema that a print column's JSON path ends at; filters such as [?(@.type=='Ready')] are items."""
    node: JSONObject | None = root
    for part in re.findall(r"\.([A-Za-z0-9]+)|(\[)", re.sub(r"\[[^]]*\]", "[", json_path)):
        if node is None:
            return None
        node = node.get("items") if part[1] else node.get("properties", {}).get(part[0])
    return node


def bounded(node: JSONObject) -> bool:
    """Whether one can say how large a value may become."""
    if node.get("x-kubernetes-preserve-unknown-fields"):
        return bool(node.get("x-kubernetes-embedded-resource"))
    match node.get("type"):
        case "string":
            return bool({"maxLength", "enum"} & node.keys()) or node.get("format") == "date-time"
        case "array":
            return "maxItems" in node
        case "object":
            return "properties" in node or "maxProperties" in node
        case "integer" | "number":
            return bool({"minimum", "maximum"} & node.keys())
        case _:
            return node.get("type") == "boolean"


def all_rules(root: JSONObject) -> list[dict[str, str]]:
    return [rule for node in [root, *(node for _, node in walk(root))] for rule in node.get(VALIDATIONS, [])]


def test_the_kinds_have_the_names_that_the_documentation_uses() -> None:
    found = {
        document["spec"]["names"]["kind"]: (
            document["spec"]["names"]["plural"],
            document["spec"]["names"]["shortNames"][0],
            document["spec"]["scope"],
        )
        for document in all_crds()
    }
    assert found == NAMES


@per_kind
def test_every_field_is_described(kind: type[Resource]) -> None:
    missing = [
        path
        for path, node in walk(root_schema(kind))
        if not path.endswith(("[*]", "{*}")) and path != "metadata" and not node.get("description")
    ]
    assert missing == []


@per_kind
def test_every_value_is_bounded(kind: type[Resource]) -> None:
    at_root = {"apiVersion", "kind", "metadata"}
    unbounded = [path for path, node in walk(root_schema(kind)) if path not in at_root and not bounded(node)]
    assert unbounded == []


@per_kind
def test_print_columns_point_at_fields_of_their_type(kind: type[Resource]) -> None:
    root = root_schema(kind)
    wrong = []
    for column in kind.info.columns:
        if column.path.startswith(".metadata."):
            continue
        found = schema_at(root, column.path)
        if found is None:
            wrong.append(f"{column.name}: {column.path} is no field")
        elif column.type in {"integer", "number"} and found["type"] != column.type:
            wrong.append(f"{column.name}: {found['type']} shown as {column.type}")
        elif column.type == "date" and "T([01]" not in str(found) and found.get("format") != "date-time":
            wrong.append(f"{column.name}: no instant shown as date")
    assert wrong == []


@per_kind
def test_columns_begin_with_state_and_tell_the_age(kind: type[Resource]) -> None:
    narrow = [column for column in kind.info.columns if not column.wide]
    assert Column("Age", ".metadata.creationTimestamp", "date") in narrow
    if "state" in root_schema(kind)["properties"].get("status", {}).get("properties", {}):
        assert (narrow[0].name, narrow[0].path) == ("State", ".status.state")
    if "status" in root_schema(kind)["properties"]:
        assert narrow[1] == READY_COLUMN


@per_kind
def test_selectable_fields_are_scalars_outside_of_lists(kind: type[Resource]) -> None:
    root = root_schema(kind)
    found = {path: (schema_at(root, path) or {}).get("type") for path in kind.info.selectable}
    assert set(found.values()) <= {"string", "integer", "boolean"}, found
    assert len(found) <= 8, "an API server takes no more"
    (version,) = crd(kind)["spec"]["versions"]
    assert version.get("selectableFields", []) == [{"jsonPath": path} for path in found]


def test_wide_columns_have_priority_one() -> None:
    columns = crd(next(kind for kind in KINDS if kind.info.kind == "ComputeJob"))["spec"]["versions"][0][
        "additionalPrinterColumns"
    ]
    assert {column["name"]: column.get("priority") for column in columns}["Attempt"] == 1
    assert {column["name"]: column.get("priority") for column in columns}["State"] is None


@per_kind
def test_one_served_version_with_status_subresource_in_the_category(kind: type[Resource]) -> None:
    document = crd(kind)
    (version,) = document["spec"]["versions"]
    assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
    assert version["subresources"] == {"status": {}}
    assert document["spec"]["names"]["categories"] == ["fedgpu"]
    assert document["metadata"] == {"name": f"{document['spec']['names']['plural']}.fedgpu.dev"}
    assert version["schema"]["openAPIV3Schema"]["properties"]["metadata"] == {"type": "object"}
    assert version["schema"]["openAPIV3Schema"]["required"] == ["spec"]


@per_kind
def test_conditions_can_be_owned_one_by_one_and_judge_a_generation(kind: type[Resource]) -> None:
    status = root_schema(kind)["properties"].get("status", {}).get("properties", {})
    if "conditions" not in status:
        assert kind.info.kind in {"ProviderReport", "PlacementPolicy"}, "every judged kind has conditions"
        return
    conditions = status["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert "observedGeneration" in conditions["items"]["properties"]
    assert "observedGeneration" in status


@pytest.mark.parametrize(
    ("kind", "parts"), [(ComputeJob, JOB_PARTS), (ComputeLease, LEASE_PARTS)], ids=["job", "lease"]
)
def test_what_is_written_as_a_whole_is_owned_as_a_whole(kind: type[Resource], parts: set[str]) -> None:
    whole = {path for path, schema in walk(root_schema(kind)) if schema.get("x-kubernetes-map-type") == "atomic"}
    assert whole == parts


@per_kind
def test_rules_speak_to_people(kind: type[Resource]) -> None:
    for rule in all_rules(root_schema(kind)):
        assert 10 <= len(rule["message"]) <= 2048, rule
        assert "\n" not in rule["message"], rule


@per_kind
def test_patterns_of_what_people_write_come_with_words(kind: type[Resource]) -> None:
    """With a pattern alone the API server only quotes a regular expression; only statuses may hold one."""
    asked = [each for each in walk(root_schema(kind)) if "pattern" in each[1] and not each[0].startswith("status.")]
    assert [path for path, node in asked if VALIDATIONS not in node] == []
    assert [path for path, node in asked if len(node["pattern"]) > 200] == [], "errors quote it"


@per_kind
def test_client_side_apply_can_carry_the_definition(kind: type[Resource]) -> None:
    assert len(json.dumps(crd(kind))) < LAST_APPLIED_LIMIT / 2


def test_yaml_holds_the_same_data_and_no_anchors() -> None:
    shared = {"description": "said twice: once, 'yes'"}
    text = to_yaml({"first": shared, "second": shared, "on": "True"})
    assert yaml.safe_load(text) == {"first": shared, "second": shared, "on": "True"}
    assert "&" not in text
    assert text == to_yaml({"first": dict(shared), "second": dict(shared), "on": "True"})


class Stray(Resource):
    """Has a field beside spec and status."""

    info: ClassVar[KindInfo] = KindInfo("Stray", "strays", "stray", "st", namespaced=True, columns=())
    extra: str = Field(max_length=3, description="Nobody would look for it here.")


def test_a_field_beside_spec_and_status_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Stray: beside metadata, only spec and status"):
        crd(Stray)


def test_the_committed_files_are_the_generated_ones(generate: ModuleType, repository: Path) -> None:
    assert generate.drift(repository) == [], "run `python hack/generate.py` and commit"


def test_check_names_what_differs_and_write_repairs_it(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, sections in generate.SECTIONS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        marks = "".join(f"<!-- generated: {section} -->\n<!-- end: {section} -->\n" for section, _ in sections)
        (tmp_path / name).write_text(f"above\n{marks}below\n")
    page = tmp_path / "docs" / "settlement.md"
    assert generate.main([], root=tmp_path) == 0
    assert generate.main(["--check"], root=tmp_path) == 0
    assert page.read_text().startswith("above\n")
    assert page.read_text().endswith("below\n")
    assert "stateDiagram-v2" in page.read_text()
    assert sorted(path.name for path in (tmp_path / "crds").iterdir()) == sorted(
        f"{plural}.yaml" for plural, _, _ in NAMES.values()
    )
    (tmp_path / "crds" / "computejobs.yaml").write_text("changed by hand")
    (tmp_path / "crds" / "gpuproviders.yaml").unlink()
    groups = tmp_path / "src" / "fedgpu_operator" / "domain" / "data" / "groups.json"
    groups.write_text(groups.read_text().replace('"BE"', '"BE", "US"'))
    page.write_text(page.read_text().replace("Prepared", "Guessed"))
    (tmp_path / "crds" / "retired.yaml").write_text("nobody generates this any more")
    assert generate.main(["--check"], root=tmp_path) == 1
    told = capsys.readouterr().err
    for name in ("computejobs.yaml", "gpuproviders.yaml", "retired.yaml"):
        assert f"crds/{name} differs" in told
    assert "domain/data/groups.json differs" in told, "nobody slips a country into a group"
    assert "docs/settlement.md differs" in told
    assert generate.main([], root=tmp_path) == 0
    assert generate.drift(tmp_path) == []


def test_the_chart_carries_the_same_definitions(generate: ModuleType) -> None:
    assert generate.GENERATORS["helm/fedgpu-operator/crds"]() == generate.GENERATORS["crds"]()
