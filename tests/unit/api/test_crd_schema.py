"""The conversion to structural schemas, on small models of its own."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from fedgpu_operator.api.base import SET_LIST, JSONObject, Model, Rule, cel, hint
from fedgpu_operator.api.crd import VALIDATIONS, structural_schema, walk
from fedgpu_operator.errors import ConfigurationError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Inner(Model):
    """What an inner one is."""

    size: int = Field(default=3, gt=0, le=9)

    model_config = Model.model_config | {"json_schema_extra": cel(Rule("self.size != 5", "size: not 5"))}


Tag = Annotated[str, Field(max_length=9, min_length=1, pattern=r"^it's\.$", json_schema_extra=hint("must be it"))]


class Everything(Model):
    optional: str | None = Field(default=None, max_length=7, description="Given or not.")
    inner: Inner = Field(description="Nearer words win.", json_schema_extra=cel(Rule("true", "never said")))
    bare: Inner
    maybe_inner: Inner | None = None
    with_default: Inner = Inner(size=4)
    word: Literal["a", "b"] = "a"
    only: Literal["x"] = "x"
    colour: Colour = Colour.RED
    at: datetime
    ratio: float = Field(ge=0, lt=1)
    labels: dict[Tag, Tag] = Field(default_factory=dict, max_length=4)
    plain_labels: dict[str, Tag] = Field(default_factory=dict, max_length=4)
    names: list[Tag] = Field(default_factory=list, max_length=5, json_schema_extra=SET_LIST)
    names_set: set[Tag] = Field(default_factory=set, max_length=5)
    free: dict[str, Any] = Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})
    port: int | str = Field(json_schema_extra={"x-kubernetes-int-or-string": True})


@pytest.fixture(scope="module")
def schema() -> JSONObject:
    return structural_schema(Everything)


@pytest.fixture(scope="module")
def fields(schema: JSONObject) -> JSONObject:
    properties: JSONObject = schema["properties"]
    return properties


def test_nothing_that_an_api_server_refuses_is_left(schema: JSONObject) -> None:
    keywords = {key for _, node in walk(schema) for key in node} | set(schema)
    assert not keywords & {"$ref", "$defs", "title", "anyOf", "allOf", "const", "uniqueItems", "propertyNames"}
    assert not {key for key in keywords if key.startswith("x-fedgpu")}


def test_an_optional_field_is_its_type_and_not_required(schema: JSONObject, fields: JSONObject) -> None:
    assert fields["optional"] == {"type": "string", "description": "Given or not.", "maxLength": 7}
    assert schema["required"] == ["inner", "bare", "at", "ratio", "free", "port"]


def test_descriptions_of_the_field_win_and_rules_of_both_hold(fields: JSONObject) -> None:
    assert fields["inner"]["description"] == "Nearer words win."
    assert [rule["message"] for rule in fields["inner"][VALIDATIONS]] == ["size: not 5", "never said"]
    assert fields["bare"]["description"] == "What an inner one is."
    assert fields["maybeInner"]["properties"]["size"]["maximum"] == 9
    assert fields["withDefault"]["default"] == {"size": 4}


def test_choices_become_enums(fields: JSONObject) -> None:
    assert fields["word"]["enum"] == ["a", "b"]
    assert fields["word"]["default"] == "a"
    assert fields["only"]["enum"] == ["x"]
    assert fields["colour"]["enum"] == ["red", "blue"]


def test_scalars_carry_format_and_bounds(fields: JSONObject) -> None:
    assert fields["at"] == {"type": "string", "format": "date-time"}
    assert fields["ratio"] == {"type": "number", "minimum": 0.0, "maximum": 1.0, "exclusiveMaximum": True}
    size = fields["bare"]["properties"]["size"]
    assert size == {
        "type": "integer",
        "format": "int64",
        "default": 3,
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 9,
    }


def test_a_hint_says_pattern_and_least_length_in_words_and_editors_keep_the_pattern(fields: JSONObject) -> None:
    item = fields["names"]["items"]
    assert item == {
        "type": "string",
        "maxLength": 9,
        "pattern": r"^it's\.$",
        VALIDATIONS: [{"rule": r"self.matches('^it\'s\\.$') && self.size() >= 1", "message": "must be it"}],
    }
    assert fields["names"]["x-kubernetes-list-type"] == "set"
    assert fields["namesSet"]["x-kubernetes-list-type"] == "set"


def test_bounds_on_the_keys_of_a_map_become_rules(fields: JSONObject) -> None:
    assert fields["labels"]["maxProperties"] == 4
    assert fields["labels"]["additionalProperties"]["maxLength"] == 9
    assert [rule["rule"] for rule in fields["labels"][VALIDATIONS]] == [
        r"self.all(key, key.matches('^it\'s\\.$'))",
        "self.all(key, key.size() >= 1)",
        "self.all(key, key.size() <= 9)",
    ]
    assert VALIDATIONS not in fields["plainLabels"]


def test_free_form_is_possible_only_when_asked_for(fields: JSONObject) -> None:
    assert fields["free"] == {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    assert fields["port"] == {"x-kubernetes-int-or-string": True}


def test_no_two_schemas_share_a_mutable_part() -> None:
    first, second = structural_schema(Everything), structural_schema(Everything)
    first["properties"]["inner"]["x-kubernetes-validations"].clear()
    first["properties"]["names"]["x-kubernetes-list-type"] = "atomic"
    first["properties"]["withDefault"]["default"]["size"] = 1
    assert second == structural_schema(Everything)


class Union(Model):
    value: int | str


class FixedTuple(Model):
    pair: tuple[int, str]


class Anything(Model):
    items: list[Any]


class FreeForm(Model):
    data: dict[str, Any]


class Keyword(Model):
    value: str = Field(json_schema_extra={"contentEncoding": "base64"})


class Tree(Model):
    children: list[Tree] = Field(default_factory=list)


class Closed(BaseModel, extra="forbid"):
    value: int


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Union, r"Union\.value: only X \| None"),
        (FixedTuple, r"FixedTuple\.pair: "),
        (Anything, r"Anything\.items\[\*\]: a value of any type"),
        (FreeForm, r"FreeForm\.data: a free-form object"),
        (Keyword, r"Keyword\.value: contentEncoding has no counterpart"),
        (Tree, r"Tree\.children\[\*\]: Tree contains itself"),
        (Closed, r"Closed: additionalProperties beside properties"),
    ],
)
def test_what_cannot_be_said_is_refused_by_path(model: type[BaseModel], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        structural_schema(model)


def test_walk_names_items_and_map_values(schema: JSONObject) -> None:
    paths = {path for path, _ in walk(schema)}
    assert {"inner.size", "names[*]", "labels{*}"} <= paths


class Answered(Model):
    tag: Tag


class Object(Model):
    spec: Answered
    status: Answered


def test_the_pattern_of_a_status_gets_no_rule() -> None:
    fields = structural_schema(Object)["properties"]
    asked, answered = (fields[name]["properties"]["tag"] for name in ("spec", "status"))

    assert asked["pattern"] == answered["pattern"] == r"^it's\.$"
    assert (VALIDATIONS in asked, VALIDATIONS in answered) == (True, False)
