"""YAML of strangers as mappings, lists and text: no types, no anchors, no depth."""

from __future__ import annotations

from typing import Final, TypeAlias

import yaml

Value: TypeAlias = "str | list[Value] | dict[str, Value]"
Mapping: TypeAlias = dict[str, Value]

MAX_DEPTH: Final = 32

_LOADER: Final = yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader


def parse(text: str) -> Mapping:
    """The one document of that text, every scalar as the text that stands there, ``true`` and ``1`` included.

    Raises ValueError with the fix for what is no mapping, for anchors and aliases (nine lines of them make a thousand
    million entries), for a key that is no text or stands twice, and for deeper nesting than `MAX_DEPTH`.
    """
    try:
        documents = _build(text)
    except yaml.YAMLError as error:
        raise ValueError("is not valid YAML") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ValueError("is not one mapping")
    return documents[0]


def _build(text: str) -> list[Value]:
    """Event by event onto a stack of our own: a composer would recurse as deep as the text says."""
    documents: list[Value] = []
    stack = [documents]
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError("anchors and aliases are refused: write the value out")
        if isinstance(event, yaml.ScalarEvent):
            stack[-1].append(str(event.value))
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(stack) > MAX_DEPTH:
                raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
            stack.append([])
        elif isinstance(event, yaml.CollectionEndEvent):
            children = stack.pop()
            stack[-1].append(_mapping(children) if isinstance(event, yaml.MappingEndEvent) else children)
    return documents


def _mapping(children: list[Value]) -> Mapping:
    """From keys and values in turn."""
    made: Mapping = {}
    for key, value in zip(children[::2], children[1::2], strict=True):
        if not isinstance(key, str) or key in made:
            raise ValueError("a key is no text, or stands twice")
        made[key] = value
    return made
