"""CustomResourceDefinitions of the kinds, made from their models; no hand-kept schema lives anywhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import yaml
from pydantic import BaseModel

from fedgpu_operator.api.base import FORM, GROUP, HINT, VERSION, Column, JSONObject, KindInfo, Resource
from fedgpu_operator.api.registry import KINDS
from fedgpu_operator.errors import ConfigurationError

VALIDATIONS: Final = "x-kubernetes-validations"
PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING: Final = "x-kubernetes-int-or-string"

_KEPT: Final = (
    "type", "format", "description", "default", "enum", "pattern", "minLength", "maxLength",
    "minimum", "maximum", "multipleOf", "minItems", "maxItems", "minProperties", "maxProperties", "required",
)  # fmt: skip
_STATUS: Final = re.compile(r"\w+\.status\b")
"""Written by programs: a pattern costs the API server a fraction of a CEL rule, at every write of the object."""
_DROPPED: Final = frozenset({"title", "$defs", HINT, FORM})
_HANDLED: Final = frozenset(
    {"const", "exclusiveMinimum", "exclusiveMaximum", "items", "properties", "additionalProperties",
     "propertyNames", "patternProperties", "uniqueItems", "anyOf"}
)  # fmt: skip


def structural_schema(model: type[BaseModel]) -> JSONObject:
    """The schema of `model` as it stands on the wire, with every ``$ref`` written out and no ``title``.

    Raises ConfigurationError naming the path of what a structural schema cannot express: a union other than
    ``X | None``, a fixed tuple, a recursive model, a keyword that has no counterpart.
    """
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _convert(raw, raw.get("$defs", {}), model.__name__, ())


def walk(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, JSONObject]]:
    """Every schema below `schema` with its path: ``spec.prices[*].usd`` for items, ``{*}`` for map values."""
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, child
        yield from walk(child, here)
    for keyword, suffix in (("items", "[*]"), ("additionalProperties", "{*}")):
        child = schema.get(keyword)
        if isinstance(child, dict):
            yield f"{path}{suffix}", child
            yield from walk(child, f"{path}{suffix}")


def _refuse(path: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: {why}")


def _convert(node: JSONObject, defs: JSONObject, path: str, seen: tuple[str, ...]) -> JSONObject:
    node, seen = _resolve(node, defs, path, seen)
    unknown = [
        key
        for key in node
        if key not in _KEPT and key not in _DROPPED and key not in _HANDLED and not key.startswith("x-kubernetes-")
    ]
    if unknown:
        raise _refuse(path, f"{', '.join(sorted(unknown))} has no counterpart in a structural schema")
    out: JSONObject = {key: node[key] for key in _KEPT if key in node}
    out.update({key: _copied(value) for key, value in node.items() if key.startswith("x-kubernetes-")})
    _scalars(node, out)
    if not _STATUS.match(path):
        _worded_pattern(node, out)
    if out.get("type") == "array":
        _array(node, out, defs, path, seen)
    elif out.get("type") == "object":
        _object(node, out, defs, path, seen)
    elif "type" not in out and not out.get(PRESERVE) and not out.get(INT_OR_STRING):
        raise _refuse(path, f"a value of any type needs {PRESERVE}")
    return out


def _resolve(
    node: JSONObject, defs: JSONObject, path: str, seen: tuple[str, ...]
) -> tuple[JSONObject, tuple[str, ...]]:
    """Follow ``$ref`` and ``X | None`` down to the schema with a type; what stands nearer the field wins."""
    while True:
        outer = dict(node)
        if "$ref" in outer:
            name = outer.pop("$ref").rsplit("/", 1)[-1]
            if name in seen:
                raise _refuse(path, f"{name} contains itself, which a structural schema cannot express")
            inner, seen = defs[name], (*seen, name)
        elif "allOf" in outer and len(outer["allOf"]) == 1:
            inner = outer.pop("allOf")[0]
        elif "anyOf" in outer and not outer.get(INT_OR_STRING):
            branches = [branch for branch in outer.pop("anyOf") if branch.get("type") != "null"]
            if len(branches) != 1:
                raise _refuse(path, "only X | None is a union that a structural schema can express")
            inner = branches[0]
        else:
            if outer.get("default", ...) is None:
                del outer["default"]
            return outer, seen
        node = _merged(inner, outer)


def _merged(inner: JSONObject, outer: JSONObject) -> JSONObject:
    merged = {**inner, **outer}
    if VALIDATIONS in inner and VALIDATIONS in outer:
        merged[VALIDATIONS] = [*inner[VALIDATIONS], *outer[VALIDATIONS]]
    return merged


def _copied(value: Any) -> Any:
    """A copy of JSON data without nulls, so that no two schemas share a mutable part."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items() if item is not None}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _scalars(node: JSONObject, out: JSONObject) -> None:
    if "description" in out:
        out["description"] = " ".join(out["description"].split())
    if "default" in out:
        out["default"] = _copied(out["default"])
    if "const" in node:
        out["enum"] = [node["const"]]
    if out.get("type") == "integer":
        out.setdefault("format", "int64")
    for exclusive, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        # JSON schema 2020 gives the number here, OpenAPI 3.0 a flag beside the inclusive bound.
        if exclusive in node:
            out[plain], out[exclusive] = node[exclusive], True
    if out.get(INT_OR_STRING):
        out.pop("type", None)


def _array(node: JSONObject, out: JSONObject, defs: JSONObject, path: str, seen: tuple[str, ...]) -> None:
    if "items" not in node:
        raise _refuse(path, "a list needs one type for all its items")
    if node.get("uniqueItems"):
        # The API server refuses uniqueItems because checking it is quadratic; a set list means the same.
        out.setdefault("x-kubernetes-list-type", "set")
    out["items"] = _convert(node["items"], defs, f"{path}[*]", seen)


def _object(node: JSONObject, out: JSONObject, defs: JSONObject, path: str, seen: tuple[str, ...]) -> None:
    if "properties" in node:
        if node.get("additionalProperties") not in (None, True):
            raise _refuse(path, "additionalProperties beside properties is refused by the API server")
        out["properties"] = {
            name: _convert(child, defs, f"{path}.{name}", seen) for name, child in node["properties"].items()
        }
        return
    values = node.get("additionalProperties")
    for pattern, child in node.get("patternProperties", {}).items():
        values = child
        _key_rules({"pattern": pattern}, out)
    if "propertyNames" in node:
        _key_rules(_resolve(node["propertyNames"], defs, path, seen)[0], out)
    if isinstance(values, dict) and values:
        out["additionalProperties"] = _convert(values, defs, f"{path}{{*}}", seen)
    elif not out.get(PRESERVE):
        raise _refuse(path, f"a free-form object needs {PRESERVE}")


def _key_rules(names: JSONObject, out: JSONObject) -> None:
    """Structural schemas bound the values of a map but not its keys, so CEL rules have to."""
    if "pattern" in names:
        words = names.get(HINT, f"must match {names['pattern']}")
        _add_rule(out, f"self.all(key, {_matches('key', names['pattern'])})", f"every key {words}")
    if "minLength" in names:
        least = names["minLength"]
        _add_rule(out, f"self.all(key, key.size() >= {least})", f"every key needs {least} characters or more")
    if "maxLength" in names:
        most = names["maxLength"]
        _add_rule(out, f"self.all(key, key.size() <= {most})", f"every key may have at most {most} characters")
    if "enum" in names:
        known = ", ".join(f"'{_cel_quoted(name)}'" for name in names["enum"])
        _add_rule(out, f"self.all(key, key in [{known}])", f"every key must be one of {known}")


def _worded_pattern(node: JSONObject, out: JSONObject) -> None:
    """Where there is a hint, people get its words: the pattern and the least length become one CEL rule too.

    Programs that read the schema (editors, generators of clients) keep the pattern, or the shorter `FORM` of it.
    """
    if HINT not in node:
        return
    conditions = [_matches("self", out["pattern"])] if "pattern" in out else []
    if FORM in node:
        out["pattern"] = node[FORM]
    if "minLength" in out:
        conditions.append(f"self.size() >= {out.pop('minLength')}")
    _add_rule(out, " && ".join(conditions), node[HINT])


def _add_rule(out: JSONObject, rule: str, message: str) -> None:
    out[VALIDATIONS] = [*out.get(VALIDATIONS, ()), {"rule": rule, "message": message}]


def _matches(variable: str, pattern: str) -> str:
    return f"{variable}.matches('{_cel_quoted(pattern)}')"


def _cel_quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


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
    if info.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in info.selectable]
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
    if "observedGeneration" in properties.get("status", {}).get("properties", {}):
        # So that the default of observedGeneration is there before anybody wrote a status.
        properties["status"]["default"] = {}
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
