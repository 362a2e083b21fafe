"""A value that its schema refuses, in words for the person who wrote it; reads schemas, knows no kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

    from fedgpu_operator.api.base import JSONObject, Resource


def refusal(kind: type[Resource], error: ValidationError) -> str:
    """``field: what to write`` of the first error; a pattern is put into the words that its field has for it."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    text = str(first["msg"])
    if first["type"] == "string_pattern_mismatch":
        schema = kind.model_json_schema(by_alias=True)
        text = next(_hints(schema, [schema], list(first["loc"])), text)
    return f"{path}: {text}, not {str(first['input'])[:64]!r}" if isinstance(first["input"], str) else f"{path}: {text}"


def _hints(root: JSONObject, nodes: Sequence[JSONObject], path: Sequence[int | str]) -> Iterator[str]:
    """The hints at the end of the path, through references, alternatives and lists."""
    from fedgpu_operator.api.base import HINT

    nodes = [each for node in nodes for each in _resolved(root, node)]
    if not path:
        yield from (str(node[HINT]) for node in nodes if HINT in node)
        return
    step, rest = path[0], path[1:]
    inner = [
        node["items"] if isinstance(step, int) else node["properties"][step]
        for node in nodes
        if ("items" in node if isinstance(step, int) else step in node.get("properties", {}))
    ]
    if inner:
        yield from _hints(root, inner, rest)


def _resolved(root: JSONObject, node: JSONObject) -> Iterator[JSONObject]:
    """The node, or what it refers to, or all of its alternatives."""
    if "$ref" in node:
        yield from _resolved(root, root["$defs"][node["$ref"].rsplit("/", 1)[-1]])
    elif "anyOf" in node:
        for each in node["anyOf"]:
            yield from _resolved(root, each)
    else:
        yield node
