"""CustomResourceDefinitions of the kinds, made from their models; no hand-kept schema lives anywhere else."""

from __future__ import annotations

from typing import Any, Final

import yaml

from fedgpu_operator.api.base import GROUP, VERSION, Column, JSONObject, KindInfo, Resource
from fedgpu_operator.api.crd_schema import VALIDATIONS, structural_schema
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.errors import ConfigurationError

CATEGORY: Final = "fedgpu"

_API_VERSION: Final = {
    "type": "string",
    "description": f"Version of this representation, {GROUP}/{VERSION}.",
}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        # Anchors would make one description's change show up in another's diff.
        del data
        return True


def crd(kind: type[Resource]) -> JSONObject:
    """The CustomResourceDefinition of `kind` as an API server takes it.

    Raises ConfigurationError where the model says what a structural schema cannot.
    """
    info = kind.info
    version: JSONObject = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": root_schema(kind)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [_column(column) for column in info.columns],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": info.crd_name},
        "spec": {
            "group": GROUP,
            "names": _names(info),
            "scope": "Namespaced" if info.namespaced else "Cluster",
            "versions": [version],
        },
    }


def all_crds() -> list[JSONObject]:
    """The definitions of all kinds, in the order of the registry."""
    return [crd(kind) for kind in KINDS]


def root_schema(kind: type[Resource]) -> JSONObject:
    """The schema of a whole object: `spec` and `status` of the model, `metadata` left to the API server."""
    schema = structural_schema(kind)
    fields = schema["properties"]
    if not set(fields) <= {"metadata", "spec", "status"}:
        raise ConfigurationError(f"{kind.__name__}: beside metadata, only spec and status may stand at the root")
    properties: JSONObject = {
        "apiVersion": dict(_API_VERSION),
        "kind": {"type": "string", "description": f"Kind of the object, {kind.info.kind}."},
        "metadata": {"type": "object"},
    }
    properties.update({name: fields[name] for name in ("spec", "status") if name in fields})
    root: JSONObject = {"type": "object"}
    if "description" in schema:
        root["description"] = schema["description"]
    root["properties"] = properties
    required = [name for name in schema.get("required", ()) if name == "spec"]
    if required:
        root["required"] = required
    rules = [*schema.get(VALIDATIONS, ()), *(rule.to_schema() for rule in kind.info.rules)]
    if rules:
        root[VALIDATIONS] = rules
    return root


def to_yaml(document: Any) -> str:
    """JSON data as YAML, always the same text for the same data: keys as given, no anchors."""
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110, default_flow_style=False)
    return str(text)


def _names(info: KindInfo) -> JSONObject:
    return {
        "kind": info.kind,
        "listKind": f"{info.kind}List",
        "plural": info.plural,
        "singular": info.singular,
        "shortNames": [info.short_name],
        "categories": [CATEGORY],
    }


def _column(column: Column) -> JSONObject:
    entry: JSONObject = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        entry["description"] = column.description
    if column.wide:
        entry["priority"] = 1
    return entry
