"""Well-formed objects of every kind: taken, stored, printed, and read back by the models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.kstatus.rules import kstatus

from fedgpu_operator.api.base import JSONObject, Resource
from fedgpu_operator.api.crd import crd, to_yaml
from fedgpu_operator.api.registry import KINDS

Sample = Callable[[str, str], JSONObject]

per_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def missing(part: Any, whole: Any, path: str = "") -> list[str]:
    """Paths of what `part` says and `whole` does not."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return [found for key in part for found in missing(part[key], whole.get(key, "absent"), f"{path}.{key}")]
    if isinstance(part, list) and isinstance(whole, list) and len(part) == len(whole):
        return [
            found for i, pair in enumerate(zip(part, whole, strict=True)) for found in missing(*pair, f"{path}[{i}]")
        ]
    return [] if part == whole else [f"{path}: {part!r} became {whole!r}"]


@per_kind
def test_a_minimal_object_is_taken_and_read_back(kind: type[Resource], desk: Any, sample: Sample) -> None:
    stored = desk.create(sample("minimal", kind.__name__))
    parsed = kind.parse(stored)
    assert parsed.metadata.uid == stored["metadata"]["uid"]
    assert missing(stored["spec"], parsed.to_wire()["spec"]) == []


@per_kind
def test_a_full_object_is_stored_whole_and_read_back(kind: type[Resource], desk: Any, sample: Sample) -> None:
    document = sample("full", kind.__name__)
    stored = desk.create(document)
    assert "conditions" not in stored.get("status", {}), "only the status subresource writes a status"
    if "status" in document:
        answer = desk.patch(stored, {"status": document["status"]}, "--subresource=status")
        assert answer.returncode == 0, answer.stderr
    stored = desk.read(stored)
    wire = kind.parse(stored).to_wire()
    for part in {"spec", "status"} & document.keys():
        assert missing(document[part], stored[part]) == []
        assert missing(stored[part], wire[part]) == []


@per_kind
def test_what_was_just_created_is_in_progress(kind: type[Resource], desk: Any, sample: Sample) -> None:
    stored = desk.read(desk.create(sample("minimal", kind.__name__)))
    # A policy has no status: it holds as soon as it is there.
    assert kstatus(stored) == ("InProgress" if "status" in kind.model_fields else "Current")


def test_leases_are_selected_by_their_fields(desk: Any, sample: Sample) -> None:
    lease = sample("full", "ComputeLease")
    stored = desk.create(lease)
    for provider, names in ((lease["spec"]["provider"], [stored["metadata"]["name"]]), ("nobody", [])):
        fields = f"spec.provider={provider},spec.desired={lease['spec']['desired']}"
        found = json.loads(desk.kubectl("get", "computeleases", "-o", "json", "--field-selector", fields).stdout)
        assert [each["metadata"]["name"] for each in found["items"]] == names


def test_the_template_of_a_job_can_be_pasted(desk: Any, sample: Sample) -> None:
    """As `kubectl create job --dry-run=client -o yaml` writes it, with what a careful author adds."""
    template = {
        "metadata": {"annotations": {"team": "vision"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 60,
            "securityContext": {"runAsUser": 1000, "runAsNonRoot": True},
            "containers": [
                {
                    "name": "train",
                    "image": "registry.example/train:1",
                    "command": ["python", "train.py"],
                    "resources": {"requests": {"cpu": "4", "memory": "16Gi"}},
                    "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
                }
            ],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }
    document = sample("minimal", "ComputeJob")
    document["spec"]["template"] = template
    stored = desk.read(desk.create(document))
    assert missing(template, stored["spec"]["template"]) == []


@per_kind
def test_what_the_models_write_is_taken(kind: type[Resource], desk: Any, sample: Sample) -> None:
    """The operator writes what to_wire answers, defaults and empty lists included."""
    stored = desk.create(sample("minimal", kind.__name__))
    wire = kind.parse(stored).to_wire()
    answer = desk.kubectl("replace", "-f", "-", document=stored | {"spec": wire["spec"]}, check=False)
    assert answer.returncode == 0, answer.stderr
    if "status" in wire:
        answer = desk.patch(stored, {"status": wire["status"]}, "--subresource=status")
        assert answer.returncode == 0, answer.stderr


@per_kind
def test_people_find_it_by_its_short_name_with_all_columns(kind: type[Resource], desk: Any, sample: Sample) -> None:
    document = sample("full", kind.__name__)
    stored = desk.create(document)
    if "status" in document:
        desk.patch(stored, {"status": document["status"]}, "--subresource=status")
    answer = desk.kubectl("get", kind.info.short_name, stored["metadata"]["name"], "-o", "wide").stdout
    assert answer.splitlines()[0].split() == ["NAME", *(column.name.upper() for column in kind.info.columns)]
    assert "<none>" not in answer
    assert "<unknown>" not in answer


def test_the_category_lists_what_belongs_to_a_tenant(desk: Any, sample: Sample) -> None:
    job, account = desk.create(sample("minimal", "ComputeJob")), desk.create(sample("minimal", "ComputeAccount"))
    listed = desk.kubectl("get", "fedgpu", "-o", "name").stdout.split()
    assert f"computejob.fedgpu.dev/{job['metadata']['name']}" in listed
    assert f"computeaccount.fedgpu.dev/{account['metadata']['name']}" in listed


def test_people_who_ask_get_the_field_explained(installed: Any) -> None:
    answer = installed.kubectl("explain", "computejob.spec.runLimitSeconds")
    assert "Longest run of one attempt" in answer.stdout


@per_kind
def test_definitions_can_be_applied_by_the_client_side_too(
    kind: type[Resource], installed: Any, tmp_path: Path
) -> None:
    """The annotation of client-side apply holds the whole object; a stranger's name keeps the real one alone."""
    document = crd(kind)
    names = document["spec"]["names"]
    for key in ("plural", "singular"):
        names[key] = f"copied{names[key]}"
    names |= {
        "kind": f"Copied{names['kind']}",
        "listKind": f"Copied{names['listKind']}",
        "shortNames": [],
        "categories": [],
    }
    document["metadata"]["name"] = f"{names['plural']}.fedgpu.dev"
    path = tmp_path / "crd.yaml"
    path.write_text(to_yaml(document), encoding="utf-8")
    try:
        installed.kubectl("apply", "-f", str(path))
        # Deleted before it is served, a definition can stay in its deletion for minutes.
        installed.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{document['metadata']['name']}")
        annotations = json.loads(installed.kubectl("get", "crd", document["metadata"]["name"], "-o", "json").stdout)[
            "metadata"
        ]["annotations"]
        assert "kubectl.kubernetes.io/last-applied-configuration" in annotations
    finally:
        installed.kubectl("delete", "--ignore-not-found", "-f", str(path))
